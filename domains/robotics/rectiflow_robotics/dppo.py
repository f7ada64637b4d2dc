"""DPPO's objective on the same chain: every denoising step is a decision with a ratio of its own (arXiv 2409.00588)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_robotics.chain import Path
from rectiflow_robotics.ppo import Surrogate, clipped_surrogate

GROWTH = 3.0


@dataclass(frozen=True)
class DPPO:
    """PPO's clip on the ratio of each denoising step; early steps count less and are clipped tighter.

    Step k of K has weight discount^(K - 1 - k) and clip first + (last - first) (e^(3 p) - 1) / (e^3 - 1), p = k / (K - 1), and
    `last` at K = 1. Ratios are of a step's likelihood itself, so the clips are those of PPO.

    Args:
        first: eps of the first step.
        last: eps of the last.
        discount: of a denoising step.

    Raises:
        ConfigError: a clip outside (0, 1), or a discount outside (0, 1].
    """

    first: float = 0.05
    last: float = 0.2
    discount: float = 0.99

    def __post_init__(self) -> None:
        if not (0 < self.first < 1 and 0 < self.last < 1 and 0 < self.discount <= 1):
            raise ConfigError(
                f"first={self.first:g}, last={self.last:g}, discount={self.discount:g}: clips must lie between 0 and 1, the "
                "discount above 0 and at most 1"
            )

    def clips(self, steps: int) -> Tensor:
        """Eps (K,) of each step."""
        if steps == 1:
            return torch.tensor([self.last])
        progress = torch.arange(steps) / (steps - 1)
        share = torch.expm1(GROWTH * progress) / math.expm1(GROWTH)
        return self.first + (self.last - self.first) * share

    def __call__(self, old: Path, new: Path, advantages: Tensor) -> Surrogate:
        """The clipped surrogate of all steps of all chains."""
        log_ratio = new.step_log_probs() - old.step_log_probs()
        steps = log_ratio.shape[1]
        weights = self.discount ** torch.arange(steps - 1, -1, -1)
        return clipped_surrogate(log_ratio, advantages[:, None] * weights, self.clips(steps))
