"""Recipes: data, model and numbers that fit together, one YAML file each."""
