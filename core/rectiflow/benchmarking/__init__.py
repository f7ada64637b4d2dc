"""Benchmarks: studies whose cells are measured once, one record for all of them, and pages made from the records alone."""
