"""DDIM (arXiv 2010.02502), which is DPM-Solver++ of order 1 (arXiv 2211.01095, eq. 9); one evaluation a step."""

from __future__ import annotations

from typing import Any

from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def ddim(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- (s'/s) x + (a' - a s'/s) x1_hat; Euler's method on the linear path, exact on any path while x1_hat stays put."""
    path = rungs(field.flow.interpolant, times)
    for i, t in enumerate(times[:-1]):
        prediction = field.predict(x, t, path.kind)
        if observe is not None:
            observe(i, t, x, field.convert(prediction, path.kind, "velocity", x, t))
        x = space.combine((x, prediction), path.first_order(i))
    return x
