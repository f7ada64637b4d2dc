"""Selected by `recipe=<name>`."""
