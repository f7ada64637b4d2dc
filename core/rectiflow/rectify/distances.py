"""How far a prediction is from what it should be: squared, or pseudo-Huber, which outliers move less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rectiflow.batch import Mask, State, map_masked, parts
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.predictions import Prediction

Perceptual = Callable[[State, State], Tensor]
"""A distance (B,) between generated and true data, for example LPIPS: it brings its own network, and its own sizes."""


class Distance(Protocol):
    """A distance (B,) read off the difference of two states, over the entries that are data."""

    def __call__(self, difference: State, mask: Mask = None) -> Tensor:
        """Distance (B,)."""
        ...


@dataclass(frozen=True)
class Squared:
    """Mean square of a sample's entries; of the components of a product, the sum."""

    def __call__(self, difference: State, mask: Mask = None) -> Tensor:
        """|r|^2 / d, (B,)."""
        squares, counts = _squares(difference, mask)
        return (squares / counts.clamp(min=1)).sum(0)


@dataclass(frozen=True)
class PseudoHuber:
    """(sqrt(|r|^2 + c^2) - c) / d with the sum |r|^2 over all d entries of a sample (arXiv 2405.20320, after 2310.14189).

    Near 0 it is |r|^2 / (2 c d), far away |r| / d: a sample's gradient has the same length however wrong it is.

    Args:
        scale: c / d, above 0.

    Raises:
        ConfigError: scale not above 0.
    """

    scale: float = 0.00054

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"PseudoHuber scale is {self.scale}; allowed: a number above 0")

    def __call__(self, difference: State, mask: Mask = None) -> Tensor:
        """The distance, (B,)."""
        squares, counts = (each.sum(0) for each in _squares(difference, mask))
        d = counts.clamp(min=1)
        c = self.scale * d
        # sqrt(S + c^2) - c loses all digits for S << c^2; this form loses none.
        return squares / ((squares + c.square()).sqrt() + c) / d


def difference(flow: Flow, prediction: State, target: State, draw: Draw, kind: Prediction) -> State:
    """Prediction less target, both of one kind, as the space compares them at a draw; what stands in padding is left out."""
    prediction, target, x = (map_masked(_clear, draw.mask, state) for state in (prediction, target, draw.xt))
    compared: State = flow.space.masked(draw.mask).residual(prediction, target, kind, x)
    return compared


def _squares(difference: State, mask: Mask) -> tuple[Tensor, Tensor]:
    """Sums of squares and numbers of entries that are data, (components, B) each."""
    squares = map_masked(_sum_of_squares, mask, difference)
    counts = map_masked(_count, mask, difference)
    return torch.stack(parts(squares)), torch.stack(parts(counts))


def _sum_of_squares(part: Tensor, mask: Tensor | None) -> Tensor:
    return _clear(part, mask).flatten(1).square().sum(1)


def _clear(part: Tensor, mask: Tensor | None) -> Tensor:
    return part if mask is None else part.masked_fill(~mask.reshape(mask.shape + (1,) * (part.ndim - mask.ndim)), 0)


def _count(part: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.full((len(part),), part[0].numel(), dtype=part.dtype, device=part.device)
    return mask.reshape(len(mask), -1).sum(1).to(part.dtype) * (part[0].numel() // mask[0].numel())
