"""Rewards on the critic's scale: divided by the running deviation of discounted returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CLIP = 10.0


class RewardScale:
    """Divides rewards by the deviation of the discounted return so far, of all environments together; clips to +-10.

    A chunk's return is G <- discount G + r, begun anew at the start of an episode. Mean and variance are merged batch by batch
    (Chan's formula), so that they are those of all returns seen.
    """

    def __init__(self, count: int) -> None:
        self.returns = torch.zeros(count)
        self.number = 0.0
        self.mean = 0.0
        self.square_sum = 0.0

    def update(self, rewards: Tensor, discounts: Tensor, done: Tensor) -> None:
        """Take in a rollout's rewards, discounts and ends of episodes, (T, N) each."""
        seen = []
        for reward, discount, ended in zip(rewards, discounts, done, strict=True):
            self.returns = discount * self.returns + reward
            seen.append(self.returns.clone())
            self.returns = self.returns.masked_fill(ended, 0.0)
        self._merge(torch.stack(seen).double())

    def _merge(self, values: Tensor) -> None:
        number, mean = values.numel(), float(values.mean())
        total = self.number + number
        shift = mean - self.mean
        self.square_sum += float((values - mean).square().sum()) + shift**2 * self.number * number / total
        self.mean += shift * number / total
        self.number = total

    @property
    def deviation(self) -> float:
        """Of the discounted return; 1 as long as none has been other than constant."""
        variance = self.square_sum / self.number if self.number else 0.0
        return float(variance**0.5) if variance > 1e-12 else 1.0

    def scale(self, rewards: Tensor) -> Tensor:
        """Rewards (…) in units of the deviation."""
        return (rewards / self.deviation).clamp(-CLIP, CLIP)

    def restart(self) -> None:
        """Begin new episodes everywhere."""
        self.returns = torch.zeros_like(self.returns)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "returns": self.returns,
            "number": self.number,
            "mean": self.mean,
            "square_sum": self.square_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.returns = state["returns"]
        self.number, self.mean, self.square_sum = (float(state[name]) for name in ("number", "mean", "square_sum"))
