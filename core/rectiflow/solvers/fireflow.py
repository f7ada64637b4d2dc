"""FireFlow (arXiv 2412.07517): the midpoint rule at the price of Euler's method, order 2, N + 1 evaluations for N steps."""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def fireflow(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- x + h v_mid, v_mid = v(x + h/2 v_mid', t + h/2), with v_mid' the midpoint velocity of the step before."""
    v = field(x, times[0])
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        if observe is not None:
            observe(i, t, x, v)
        x, v = fireflow_step(field, x, v, t, h, space)
    return x


def fireflow_step(field: VelocityField, x: Any, v: Any, t: float, h: float, space: Space) -> tuple[Any, Any]:
    """The state at t + h by one evaluation, at t + h / 2 where v leads, and the velocity there, carried to that state."""
    x_mid = space.step(x, v, h / 2)
    v_mid = field(x_mid, t + h / 2)
    x = space.step(x, space.pull(x, v, h / 2, v_mid), h)
    return x, space.transport(x_mid, x, v_mid)
