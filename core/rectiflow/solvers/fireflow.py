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
        x_mid = space.step(x, v, h / 2)
        v_mid = field(x_mid, t + h / 2)
        x = space.step(x, space.pull(x, v, h / 2, v_mid), h)
        v = space.transport(x_mid, x, v_mid)
    return x
