"""The sampler of improved rectified flows: each step starts from the initial noise again (2-RF++, arXiv 2405.20320).

One evaluation a step. Exact on a straight flow; on others the error of a step is not carried into the noise of the next.
"""

from __future__ import annotations

from typing import Any

from rectiflow.errors import ConfigError
from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def reinterpolate(
    field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None
) -> Any:
    """x <- a x1_hat + s x0 at the next time, with x1_hat = E[x1 | x] and x0 the state that the solve began with.

    Raises:
        ConfigError: a grid that does not begin at 0, where x0 is.
    """
    if times[0] != 0 or times[-1] < times[0]:
        raise ConfigError(
            f"solver 'reinterpolate' got times from {times[0]:g} to {times[-1]:g}; it starts at the noise: 0"
        )
    x0 = x
    path = rungs(field.flow.interpolant, times)
    for i, t in enumerate(times[:-1]):
        data = field.predict(x, t, "data")
        if observe is not None:
            observe(i, t, x, field.convert(data, "data", "velocity", x, t))
        x = space.combine((data, x0), (path.lead[i + 1], path.fade[i + 1]))
    return x
