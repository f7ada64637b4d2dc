"""The critic: the expected discounted return of an observation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.nn.layers import linear


class Critic(nn.Module):
    """Residual perceptron from a normalised observation to a value.

    Args:
        inputs: length of the vector that `features` gives.
        features: what turns an observation into that vector, the policy's own normalisation; it is not trained here.
        width: of the hidden layers.
        depth: how many.
        generator: of the first weights.
    """

    def __init__(
        self,
        inputs: int,
        features: Callable[[Tensor], Tensor],
        *,
        width: int = 256,
        depth: int = 3,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.features = features
        self.first = linear(inputs, width, generator=generator)
        self.blocks = nn.ModuleList(linear(width, width, generator=generator) for _ in range(depth - 1))
        self.last = linear(width, 1, generator=generator, zero=True)

    def forward(self, observation: Tensor) -> Tensor:
        """Values (B,) of observations (B, ...)."""
        hidden = F.mish(self.first(self.features(observation).detach()))
        for block in self.blocks:
            hidden = hidden + F.mish(block(hidden))
        value: Tensor = self.last(hidden).squeeze(-1)
        return value
