"""DPM-Solver++ with three predictions (arXiv 2211.01095, appendix): order 3 away from the ends, one evaluation a step.

The quadratic through the last three predictions is integrated exactly. Widespread implementations give its second difference half
of that weight, (e^{-h} - 1 + h) / h^2 - 1/2, and with it observed order 2.
"""

from __future__ import annotations

from typing import Any

from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def dpmpp_3m(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- (s'/s) x + a' int e^{u - h} X(u) du, X the quadratic through the last three data predictions.

    The first steps, and those at an infinite half-logSNR, use as many predictions as there are at finite ones. The very first,
    of order 1, is redone once the second prediction is known: without that its error alone would hold the order at 2.
    """
    path = rungs(field.flow.interpolant, times)
    known: list[Any] = []
    start = x
    for i, t in enumerate(times[:-1]):
        known = [field.predict(x, t, path.kind), *known[:2]]
        if i == 1 and path.finite(0):
            x = space.combine((start, *known), path.polynomial(0, 1, 2))
        if observe is not None:
            observe(i, t, x, field.convert(known[0], path.kind, "velocity", x, t))
        if path.finite(i):
            count = path.usable(i, len(known))
            x = space.combine((x, *known[:count]), path.polynomial(i, i, count))
        else:
            x = space.combine((x, known[0]), path.first_order(i))
    return x
