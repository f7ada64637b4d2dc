"""The sampler of improved rectified flows: each step starts from the initial noise again (2-RF++, arXiv 2405.20320).

One evaluation a step. Exact on a straight flow; on others the error of a step is not carried into the noise of the next.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from rectiflow.batch import batch_size, device_of, time_dtype
from rectiflow.errors import ConfigError
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
    path = field.flow.interpolant
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        prediction = field.predict(x, t, field.flow.predicts)
        if observe is not None:
            observe(i, t, x, field.convert(prediction, field.flow.predicts, "velocity", x, t))
        data = field.convert(prediction, field.flow.predicts, "data", x, t)
        ends = torch.full((batch_size(x),), t_next, device=device_of(x), dtype=time_dtype(x))
        x, _ = space.path(x0, data, ends, path)
    return x
