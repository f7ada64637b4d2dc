"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): order 2, one evaluation a step."""

from __future__ import annotations

from typing import Any

from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def dpmpp_2m(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """The step of DDIM with x1_hat + (x1_hat - x1_hat') / (2 r), r = h' / h in half-logSNR, for x1_hat.

    A step that starts or ends where the half-logSNR is infinite, as t = 0 and t = 1 mostly do, is one of DDIM.
    """
    path = rungs(field.flow.interpolant, times)
    previous: Any = None
    for i, t in enumerate(times[:-1]):
        prediction = field.predict(x, t, path.kind)
        if observe is not None:
            observe(i, t, x, field.convert(prediction, path.kind, "velocity", x, t))
        keep, weight = path.first_order(i)
        if i > 0 and path.finite(i) and path.finite(i - 1):
            ahead = (path.clock[i + 1] - path.clock[i]) / (2 * (path.clock[i] - path.clock[i - 1]))
            x = space.combine((x, prediction, previous), (keep, weight * (1 + ahead), -weight * ahead))
        else:
            x = space.combine((x, prediction), (keep, weight))
        previous = prediction
    return x
