"""The size of an error relative to what is tolerated, as adaptive and implicit solvers measure it."""

from __future__ import annotations

from typing import Any

import torch

from rectiflow.batch import parts


def scaled_rms(error: Any, x: Any, y: Any, rtol: float, atol: float) -> float:
    """Root mean square, over every entry of the batch, of error / (atol + rtol max(|x|, |y|)); at most 1 is within tolerance."""
    total, count = 0.0, 0
    for e, a, b in zip(parts(error), parts(x), parts(y), strict=True):
        e, a, b = e.detach(), a.detach(), b.detach()
        scaled = e.double() / (atol + rtol * torch.maximum(a.abs(), b.abs()).double())
        total += float(scaled.square().sum())
        count += scaled.numel()
    return float((total / count) ** 0.5)
