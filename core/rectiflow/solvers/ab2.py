"""The two-step Adams-Bashforth method, order 2, one evaluation a step and one more for the start (Hairer, Norsett and
Wanner, Solving Ordinary Differential Equations I, III.5, with variable step sizes).
"""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.midpoint import midpoint_step
from rectiflow.spaces.space import Space


def ab2(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- x + h ((1 + r/2) v_i - (r/2) v_{i-1}), r = h_i / h_{i-1}; the first step is one of Heun's method.

    Without a velocity at its end, as in a single step that ends on predicted data, the first step is one of the midpoint rule.
    """
    behind: tuple[Any, Any, float] | None = None
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        v = field(x, t)
        if observe is not None:
            observe(i, t, x, v)
        if behind is None and field.untold(t_next):
            behind, x = (x, v, h), midpoint_step(field, x, v, t, h, space)
            continue
        if behind is None:
            v_end = space.pull(x, v, h, field(space.step(x, v, h), t_next))
            slopes, weights = (v, v_end), (0.5, 0.5)
        else:
            x_behind, v_behind, h_behind = behind
            r = h / h_behind
            slopes, weights = (v, space.transport(x_behind, x, v_behind)), (1 + r / 2, -r / 2)
        behind = (x, v, h)
        x = space.advance(x, slopes, weights, h)
    return x
