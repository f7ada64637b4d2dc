"""Solvers of dx/dt = v(x, t): one flat function a file, listed by name in `catalogue`."""
