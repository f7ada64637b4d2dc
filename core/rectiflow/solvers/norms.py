"""The size of an error relative to what is tolerated, as adaptive and implicit solvers measure it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import parts
from rectiflow.spaces.space import Space


def tolerated(space: Space, x: Any, y: Any, rtol: float, atol: float) -> list[Tensor]:
    """atol + rtol max(|x|, |y|) of every entry, in float64, part by part; on curved spaces 1 stands for |x|."""
    pairs = zip(parts(space.size(x)), parts(space.size(y)), strict=True)
    return [atol + rtol * torch.maximum(a.detach(), b.detach()).double() for a, b in pairs]


def scaled_rms(error: Any, scales: list[Tensor]) -> float:
    """Root mean square, over every entry of the batch, of error / scale; at most 1 is within tolerance."""
    total, count = 0.0, 0
    for part, scale in zip(parts(error), scales, strict=True):
        total += float(torch.linalg.vector_norm(part.detach() / scale)) ** 2
        count += part.numel()
    return float((total / count) ** 0.5)
