"""Classifier-free guidance (arXiv 2207.12598), on an interval of times (arXiv 2404.07724)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError

SCALE = "guidance"
"""The condition by which a model that was trained for a range of scales is told which one."""


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


def scale_condition(cond: Cond, allowed: tuple[float, float], guidance: Guidance, size: int, **options: Any) -> Cond:
    """Conditions of a model that takes the scale as one of them: as given there, or the same for all samples.

    Args:
        cond: name -> (size, ...).
        allowed: the range that the model was trained for.
        guidance: the scale, for all times.
        size: number of samples.
        options: device and dtype.

    Raises:
        ConfigError: scales from both, a scale out of range, or an interval of times.
    """
    if SCALE in cond:
        if guidance.scale != 1:
            raise ConfigError(
                f"guidance scale {guidance.scale:g} was given, and cond holds a scale for each sample; give one of them"
            )
        return cond
    low, high = allowed
    if not low <= guidance.scale <= high:
        raise ConfigError(
            f"guidance scale is {guidance.scale:g}; this student was trained for {low:g} to {high:g}: choose one of these"
        )
    if guidance.interval != NO_GUIDANCE.interval:
        raise ConfigError(
            f"guidance on the interval {list(guidance.interval)} was asked of a student that has one scale for all times; "
            "leave the interval out"
        )
    return {**cond, SCALE: torch.full((size,), guidance.scale, **options)}
