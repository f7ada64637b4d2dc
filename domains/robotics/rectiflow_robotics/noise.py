"""Learnt exploration noise of a policy's denoising steps: bounded, of the observation and the step alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rectiflow.errors import ConfigError
from rectiflow.nn.layers import embedding, linear

HOLD = 0.35
SHARE_OF_LOW = 0.3


class NoiseNetwork(nn.Module):
    """Standard deviation sigma(k, o), one a component of the action chunk, strictly between two bounds (arXiv 2505.22094).

    log sigma = log low + (log high - log low) (tanh h + 1) / 2 with h of a small network whose last layer starts at zero, so that
    sigma starts at the geometric mean of the bounds. It sees no action: given the observation, noise and mean are independent.
    The bounds are buffers: `set_bounds` moves them along a schedule. With `learnt` false sigma stays at the geometric mean.

    Args:
        observations: length of an observation vector.
        shape: of an action chunk, (actions, components).
        steps: denoising steps K.
        low: above 0.
        high: at least `low`.
        learnt: whether sigma follows the observation and the step.
        width: of the two hidden layers.
        generator: of the first weights.

    Raises:
        ConfigError: bounds out of order, or no step.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observations: int,
        shape: tuple[int, int],
        steps: int,
        *,
        low: float,
        high: float,
        learnt: bool = True,
        width: int = 64,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"noise of {steps} denoising steps is asked for; there must be at least 1")
        self.shape = shape
        self.learnt = learnt
        self.step = embedding(steps, 16, generator=generator)
        self.hidden = nn.Sequential(
            linear(observations + 16, width, generator=generator),
            nn.Tanh(),
            linear(width, width, generator=generator),
            nn.Tanh(),
        )
        self.last = linear(width, math.prod(shape), generator=generator, zero=True)
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))
        self.set_bounds(low, high)
        self.requires_grad_(learnt)

    def set_bounds(self, low: float, high: float) -> None:
        """Let sigma lie between `low` and `high` from now on.

        Raises:
            ConfigError: not 0 < low <= high < infinity.
        """
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"noise bounds are {low:g} and {high:g}; they must be 0 < low <= high")
        self.low.fill_(low)
        self.high.fill_(high)

    def forward(self, step: Tensor, observation: Tensor) -> Tensor:
        """Sigma (B, actions, components) at denoising steps (B,), integers from 0, for observations (B, length)."""
        low, high = self.low.log(), self.high.log()
        if not self.learnt:
            return torch.exp((low + high) / 2).expand(len(step), *self.shape)
        hidden = self.hidden(torch.cat([observation, self.step(step)], dim=1))
        share = (torch.tanh(self.last(hidden)) + 1) / 2
        return torch.exp(low + (high - low) * share).view(-1, *self.shape)


def scheduled_bounds(progress: float, low: float, high: float) -> tuple[float, float]:
    """The bounds at a share of the training in [0, 1]: `high` is held for 35 %, then falls by a cosine to 0.3 low + 0.7 high.

    Source: arXiv 2505.22094, the schedule of its state-based tasks.
    """
    if progress <= HOLD:
        return low, high
    end = SHARE_OF_LOW * low + (1 - SHARE_OF_LOW) * high
    fallen = (progress - HOLD) / (1 - HOLD)
    return low, end + (high - end) * (1 + math.cos(math.pi * fallen)) / 2
