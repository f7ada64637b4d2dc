"""What the stochastic solvers share: their noise, the drift of either direction, and how their last step goes."""

from __future__ import annotations

from typing import Any

import torch

from rectiflow.batch import device_of, dtype_of, map_state, shape_of
from rectiflow.errors import ConfigError
from rectiflow.solvers.field import VelocityField
from rectiflow.spaces.space import Space

LAST_STEPS = ("ode", "mean", "tweedie", "full")


def check_last_step(last_step: str, times: list[float]) -> None:
    """Refuse an unknown rule, and Tweedie's where the grid does not end on data.

    Raises:
        ConfigError: as said.
    """
    if last_step not in LAST_STEPS:
        raise ConfigError(f"last_step is {last_step!r}; allowed: {', '.join(LAST_STEPS)}")
    if last_step == "tweedie" and times[-1] != 1:
        raise ConfigError(f"last_step 'tweedie' ends on data, but the times end at {times[-1]:g}; allowed: 1")


def drift(field: VelocityField, x: Any, t: float, h: float, amount: float, space: Space) -> tuple[Any, Any]:
    """v, and v + eps score forwards or v - eps score backwards (h < 0); where eps is 0, v and v, without a score."""
    if amount == 0:
        v = field(x, t)
        return v, v
    amount = amount if h > 0 else -amount
    plain = field.flow.predicts == "velocity" and field.flow.score_model is None
    weights = field.weights("velocity", "score", t) if plain and not field.untold(t, "score") else None
    if weights is None:
        v, score = field.velocity_and_score(x, t)
        return v, space.combine((v, score), (1.0, amount))
    v = field(x, t)
    return v, space.combine((x, v), (amount * weights[0], 1 + amount * weights[1]))


def normal_like(x: Any, space: Space, generator: torch.Generator) -> Any:
    """Standard normal noise of a state's shape in a linear space, drawn where the generator lives."""
    noise = space.sample_prior(shape_of(x), generator, device=generator.device, dtype=dtype_of(x))
    device = device_of(x)
    return map_state(lambda part: part.to(device), noise)
