"""Spaces that a state may live in: one file a space."""
