"""Classifier-free guidance (arXiv 2207.12598), on an interval of times (arXiv 2404.07724)."""

from __future__ import annotations

from dataclasses import dataclass

from rectiflow.errors import ConfigError


@dataclass(frozen=True)
class Guidance:
    """v = v_uncond + scale (v_cond - v_uncond) for t in `interval`, and the conditional model outside it.

    Scale 1 is the conditional model and 0 the unconditional one, both at one evaluation a call; any other scale costs two,
    done in one forward pass of twice the batch. The interval [low, high] includes its ends; t = 0 is noise.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"guidance interval is [{low}, {high}]; allowed: 0 <= low <= high <= 1")

    def scale_at(self, time: float) -> float:
        """Scale at time t in [0, 1]."""
        low, high = self.interval
        return self.scale if low <= time <= high else 1.0


NO_GUIDANCE = Guidance()
