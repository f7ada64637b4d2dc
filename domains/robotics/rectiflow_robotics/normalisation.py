"""Observations on a scale that a network can work with; part of the network, so that it travels with its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = 1e-2
"""Smallest range that is stretched to [-1, 1]: a simulator's constant entries would otherwise be noise times a million."""
LIMIT = 3.0
"""Where what was never demonstrated is cut off."""


class Normalisation(nn.Module):
    """Map each entry's range in the demonstrations to [-1, 1], and cut at ±3; bytes of a picture go to [-1, 1].

    Ranges below FLOOR are taken as FLOOR, around their middle. The numbers are buffers: no optimiser moves them.
    """

    centre: Tensor
    half_range: Tensor

    def __init__(self, observations: Tensor) -> None:
        super().__init__()
        if observations.dtype == torch.uint8:
            low, high = torch.zeros(1), torch.full((1,), 255.0)
        else:
            low, high = observations.amin(0), observations.amax(0)
        self.register_buffer("centre", (low + high) / 2)
        self.register_buffer("half_range", ((high - low) / 2).clamp(min=FLOOR / 2))

    def forward(self, observations: Tensor) -> Tensor:
        """Observations (B, …) normalised."""
        return ((observations.to(self.centre.dtype) - self.centre) / self.half_range).clamp(-LIMIT, LIMIT)
