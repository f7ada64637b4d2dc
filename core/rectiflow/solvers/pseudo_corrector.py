"""FlowTurbo's pseudo-corrector (arXiv 2409.18128): Heun's method at the price of Euler's.

Order 2, N + 1 evaluations for N steps.
"""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.fireflow import fireflow_step
from rectiflow.spaces.space import Space


def pseudo_corrector(
    field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None
) -> Any:
    """x <- x + h (v' + v_end) / 2, v_end = v(x + h v', t + h), with v' the end velocity of the step before.

    A step at whose end there is no velocity is one of FireFlow.
    """
    v = field(x, times[0])
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        if observe is not None:
            observe(i, t, x, v)
        if field.untold(t_next):
            x, v = fireflow_step(field, x, v, t, h, space)
            continue
        x_end = space.step(x, v, h)
        v_end = field(x_end, t_next)
        x = space.advance(x, (v, space.pull(x, v, h, v_end)), (0.5, 0.5), h)
        v = space.transport(x_end, x, v_end)
    return x
