"""Shapes: meshes from flows over sets and grids. Free of torch until a verb runs."""
