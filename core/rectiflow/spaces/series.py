"""Functions of a squared angle that are smooth at zero, in value and in every gradient.

Each has a closed form that divides by the angle and a power series for small angles. The closed form never sees a small angle (it
is given 1 instead), so that its infinite derivatives there cannot turn into NaN when the unused branch is multiplied by zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 1e-3
"""Squared angles (rad^2) below which the series are used; their first dropped terms are below 3e-16."""


def cosine_and_sinc(square: Tensor) -> tuple[Tensor, Tensor]:
    """cos(w) and sin(w) / w for w^2 = square, any shape."""
    small, angle = _split(square)
    cosine = torch.where(small, 1 - square / 2 * (1 - square / 12 * (1 - square / 30)), torch.cos(angle))
    sinc = torch.where(small, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), torch.sin(angle) / angle)
    return cosine, sinc


def angle_over_sine_excess(square: Tensor) -> Tensor:
    """(w / sin w - 1) / w^2 for w^2 = square in [0, pi^2), any shape; 1/6 at zero."""
    small, angle = _split(square)
    series = 1 / 6 + square * (7 / 360 + square * (31 / 15120 + square * 127 / 604800))
    return torch.where(small, series, (angle / torch.sin(angle) - 1) / angle.square())


def inverse_jacobian_coefficient(square: Tensor) -> Tensor:
    """1 / w^2 - cot(w / 2) / (2 w) for w^2 = square in [0, 4 pi^2), any shape; 1/12 at zero."""
    small, angle = _split(square)
    series = 1 / 12 + square * (1 / 720 + square * (1 / 30240 + square / 1209600))
    return torch.where(small, series, 1 / angle.square() - 1 / (2 * angle * torch.tan(angle / 2)))


def _split(square: Tensor) -> tuple[Tensor, Tensor]:
    small = square < SMALL
    return small, torch.where(small, torch.ones_like(square), square).sqrt()
