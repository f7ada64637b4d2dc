"""Euler's method, order 1, one evaluation a step."""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def euler(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- exp_x(h v(x, t)); exact in one step on straight flows."""
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        v = field(x, t)
        if observe is not None:
            observe(i, t, x, v)
        x = space.step(x, v, t_next - t)
    return x
