"""DDIM (arXiv 2010.02502), which is DPM-Solver++ of order 1 (arXiv 2211.01095, eq. 9); one evaluation a step.

On a curved space the step goes its share of the geodesic to the data prediction.
"""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.errors import ConfigError
from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def ddim(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- (s'/s) x + (a' - a s'/s) x1_hat; Euler's method on the linear path, exact on any path while x1_hat stays put.

    The end is the state of the flow at the last time: on a path that reaches data, the last data prediction itself.

    Raises:
        ConfigError: where states cannot be added, times that run towards the source or a flow that does not predict data.
    """
    if not space.linear:
        return _along_geodesics(field, x, times, space, observe)
    path = rungs(field.flow.interpolant, times)
    for i, t in enumerate(times[:-1]):
        prediction = field.predict(x, t, path.kind)
        if observe is not None:
            observe(i, t, x, field.convert(prediction, path.kind, "velocity", x, t))
        x = space.combine((x, prediction), path.first_order(i))
    return x


def _along_geodesics(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None) -> Any:
    if times[-1] < times[0]:
        raise ConfigError(
            f"solver 'ddim' got times from {times[0]:g} to {times[-1]:g} on {space!r}, where it approaches data only; "
            "use midpoint to run towards the source"
        )
    if field.flow.predicts != "data":
        raise ConfigError(
            f"solver 'ddim' approaches data predictions on {space!r}; this flow predicts {field.flow.predicts}: use euler, "
            "which on the linear path is the same"
        )
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        data = field.predict(x, t, "data")
        if observe is not None:
            observe(i, t, x, field.convert(data, "data", "velocity", x, t))
        x = space.approach(x, data, t, t_next, field.flow.interpolant)
    return x
