"""The explicit midpoint rule, order 2, two evaluations a step.

RF-Solver (arXiv 2411.04746) writes the same step as a Taylor expansion with a finite difference for dv/dt:
x + h v + (h^2 / 2) (v_mid - v) / (h / 2) = x + h v_mid.
"""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def midpoint(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- exp_x(h v(x_mid, t + h/2)) with x_mid = exp_x(h/2 v(x, t))."""
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        v = field(x, t)
        if observe is not None:
            observe(i, t, x, v)
        x = midpoint_step(field, x, v, t, h, space)
    return x


def midpoint_step(field: VelocityField, x: Any, v: Any, t: float, h: float, space: Space) -> Any:
    """The state at t + h by one evaluation beside the velocity v at (x, t), and none at t + h."""
    v_mid = space.pull(x, v, h / 2, field(space.step(x, v, h / 2), t + h / 2))
    return space.step(x, v_mid, h)
