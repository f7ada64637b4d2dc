"""Annealing: from training on fresh noise to training on stored pairs, step by step (SlimFlow, arXiv 2407.12718)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rectiflow.batch import State, map_state
from rectiflow.errors import ConfigError

SCHEDULES = ("linear", "cosine", "exponential")


@dataclass(frozen=True)
class Annealing:
    """The share beta of fresh noise in a pair's source, from 1 at the first step towards 0.

    Over W = `steps` steps, with u = min(1, k / W): linear 1 - u, cosine (1 + cos(pi u)) / 2; exponential exp(-k / W), which never
    ends.

    Args:
        steps: W, at least 1.
        schedule: linear | cosine | exponential.

    Raises:
        ConfigError: an unknown schedule or fewer than one step.
    """

    steps: int
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"annealing schedule {self.schedule!r} is unknown; allowed: {', '.join(SCHEDULES)}")
        if self.steps < 1:
            raise ConfigError(f"annealing over {self.steps} steps; it must be at least 1")

    def beta(self, step: int) -> float:
        """Share of fresh noise, 0 to 1, in training step number `step`, counted from 0."""
        if self.schedule == "exponential":
            return math.exp(-step / self.steps)
        u = min(1.0, step / self.steps)
        return 1 - u if self.schedule == "linear" else (1 + math.cos(math.pi * u)) / 2


def annealed(x0: State, fresh: State, beta: float) -> State:
    """sqrt(1 - beta^2) x0 + beta fresh: normal with the same covariance when both are, with mean 0 and independent."""
    keep = math.sqrt(1 - beta**2)
    mixed: State = map_state(lambda part, new: keep * part + beta * new, x0, fresh)
    return mixed
