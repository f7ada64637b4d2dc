"""Rotary positions over the rows and columns of a grid, with training-free extrapolation to larger grids."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rectiflow.errors import ConfigError

Extrapolation = Literal["none", "linear", "ntk", "yarn"]


def rotary_table(
    coordinates: Tensor,
    head_width: int,
    *,
    theta: float = 10000.0,
    scale: float = 1.0,
    extrapolation: Extrapolation = "none",
    trained_length: int = 16,
) -> Tensor:
    """Return the cosines and sines that `rotate` turns queries and keys by, a tensor (2, ..., N, head_width / 2).

    `coordinates` is (..., N, 2), row and column. The first half of the pairs turns with the row, the second with the
    column, each at head_width / 4 frequencies theta^(-4i / head_width). For grids `scale` >= 1 times longer than the
    `trained_length` cells of training, `extrapolation` slows the frequencies: "linear" all alike, "ntk" by raising
    theta, "yarn" only those that turn less than 32 times over the trained length, with an attention temperature.

    Raises ConfigError for a head width that four does not divide, or a scale below 1.
    Source: arXiv 2402.12376 (FiT), section 3; arXiv 2309.00071 (YaRN), equations 17 to 22.
    """
    if head_width % 4 or head_width < 4:
        raise ConfigError(
            f"head width is {head_width}; two-dimensional rotary positions need a multiple of 4: change width or heads"
        )
    if scale < 1:
        raise ConfigError(f"rotary scale is {scale}; it must be at least 1, the trained length: use scale=1")
    width = head_width // 2
    if extrapolation == "ntk" and width > 2:
        theta = theta * scale ** (width / (width - 2))
    index = torch.arange(width // 2, device=coordinates.device, dtype=torch.get_default_dtype())
    frequencies = theta ** (-2 * index / width)
    temperature = 1.0
    if extrapolation == "linear":
        frequencies = frequencies / scale
    elif extrapolation == "yarn":
        slowed = _yarn_ramp(index, width, theta, trained_length)
        frequencies = frequencies * (1 - slowed) + frequencies / scale * slowed
        temperature = 0.1 * math.log(scale) + 1
    angle = (coordinates[..., None].to(frequencies.dtype) * frequencies).flatten(-2)
    return temperature * torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of x by its angle.

    `x` is (B, heads, N, head_width); `table` comes from `rotary_table` and is (2, N, head_width / 2), or
    (2, B, N, head_width / 2) for coordinates that differ between samples. Source: arXiv 2104.09864, equation 34.
    """
    cosine, sine = table.to(x.dtype)
    if cosine.ndim == 3:
        cosine, sine = cosine[:, None], sine[:, None]
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(-2)


def _yarn_ramp(index: Tensor, width: int, theta: float, length: int, fast: float = 32.0, slow: float = 1.0) -> Tensor:
    """Return how much each frequency is slowed: 0 above `fast` turns over the trained length, 1 below `slow`."""

    def turning(turns: float) -> float:
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(turning(fast)), 0)
    high = min(math.ceil(turning(slow)), width - 1)
    return ((index - low) / max(high - low, 1e-3)).clamp(0, 1)
