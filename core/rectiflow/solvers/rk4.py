"""The classical Runge-Kutta method, order 4, four evaluations a step."""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def rk4(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- exp_x(h (v1 + 2 v2 + 2 v3 + v4) / 6) with stages at t, t + h/2 (twice) and t + h.

    A step at whose end there is no velocity is one of Heun's method of order 3, with stages at t, t + h/3 and t + 2 h/3 (Hairer,
    Norsett and Wanner, Solving Ordinary Differential Equations I, II.1): one such step leaves the order of the solve at 4.
    """
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        v1 = field(x, t)
        if observe is not None:
            observe(i, t, x, v1)
        if field.untold(t_next):
            x = _third_order_step(field, x, v1, t, h, space)
            continue
        middle = t + h / 2
        v2 = space.pull(x, v1, h / 2, field(space.step(x, v1, h / 2), middle))
        v3 = space.pull(x, v2, h / 2, field(space.step(x, v2, h / 2), middle))
        v4 = space.pull(x, v3, h, field(space.step(x, v3, h), t_next))
        x = space.advance(x, (v1, v2, v3, v4), (1 / 6, 1 / 3, 1 / 3, 1 / 6), h)
    return x


def _third_order_step(field: VelocityField, x: Any, v1: Any, t: float, h: float, space: Space) -> Any:
    """x <- exp_x(h (v1 + 3 v3) / 4)."""
    near, far = h / 3, 2 * h / 3
    v2 = space.pull(x, v1, near, field(space.step(x, v1, near), t + near))
    v3 = space.pull(x, v2, far, field(space.step(x, v2, far), t + far))
    return space.advance(x, (v1, v3), (1 / 4, 3 / 4), h)
