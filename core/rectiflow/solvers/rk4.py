"""The classical Runge-Kutta method, order 4, four evaluations a step."""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def rk4(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- exp_x(h (v1 + 2 v2 + 2 v3 + v4) / 6) with stages at t, t + h/2 (twice) and t + h."""
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        middle = t + h / 2
        v1 = field(x, t)
        if observe is not None:
            observe(i, t, x, v1)
        v2 = space.pull(x, v1, h / 2, field(space.step(x, v1, h / 2), middle))
        v3 = space.pull(x, v2, h / 2, field(space.step(x, v2, h / 2), middle))
        v4 = space.pull(x, v3, h, field(space.step(x, v3, h), t_next))
        x = space.advance(x, (v1, v2, v3, v4), (1 / 6, 1 / 3, 1 / 3, 1 / 6), h)
    return x
