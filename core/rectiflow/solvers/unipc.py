"""UniPC of order 3 (arXiv 2302.04867): a predictor of order 2, corrected with the evaluation that the next step needs anyway.

One evaluation a step. Both formulas integrate the polynomial through their predictions exactly: that solves the paper's
equations for the weights without the shortcut of a fixed 1/2, and then its function B(h) cancels.
"""

from __future__ import annotations

from typing import Any

from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def unipc(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """Predict with two predictions, evaluate, then redo the step with the new prediction as a third.

    Steps at an infinite half-logSNR, as at t = 0 and t = 1 mostly, are of order 1 and not corrected.
    """
    path = rungs(field.flow.interpolant, times)
    known: list[Any] = []
    start: Any = None
    for i, t in enumerate(times[:-1]):
        new = field.predict(x, t, path.kind)
        if known and path.finite(i - 1):
            count = path.usable(i, len(known) + 1)
            x = space.combine((start, new, *known[: count - 1]), path.polynomial(i - 1, i, count))
        if observe is not None:
            observe(i, t, x, field.convert(new, path.kind, "velocity", x, t))
        known = [new, *known[:1]]
        start = x
        if path.finite(i):
            count = path.usable(i, len(known))
            x = space.combine((x, *known[:count]), path.polynomial(i, i, count))
        else:
            x = space.combine((x, known[0]), path.first_order(i))
    return x
