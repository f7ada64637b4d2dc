"""Heun's method (explicit trapezoid), order 2, two evaluations a step."""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.midpoint import midpoint_step
from rectiflow.spaces.space import Space


def heun(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- exp_x(h (v(x, t) + v(x_euler, t + h)) / 2); a step of the midpoint rule where there is no velocity at its end."""
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        v = field(x, t)
        if observe is not None:
            observe(i, t, x, v)
        if field.untold(t_next):
            x = midpoint_step(field, x, v, t, h, space)
            continue
        v_end = space.pull(x, v, h, field(space.step(x, v, h), t_next))
        x = space.advance(x, (v, v_end), (0.5, 0.5), h)
    return x
