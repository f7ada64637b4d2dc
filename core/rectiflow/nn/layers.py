"""Layers whose first weights come from an explicit generator, so that building a network never reads a global one."""

from __future__ import annotations

import torch
from torch import nn


def linear(inputs: int, outputs: int, *, generator: torch.Generator, zero: bool = False) -> nn.Linear:
    """Return a linear layer with Xavier-uniform weights and zero bias; with `zero` the weights are zero too."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    _fill(layer, generator, zero)
    return layer


def convolution(inputs: int, outputs: int, kernel: int, *, generator: torch.Generator, zero: bool = False) -> nn.Conv2d:
    """Return a size-preserving 2-D convolution (odd `kernel`) with Xavier-uniform weights and zero bias, or all zero."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, device="meta").to_empty(device="cpu")
    _fill(layer, generator, zero)
    return layer


def embedding(rows: int, width: int, *, generator: torch.Generator, std: float = 0.02) -> nn.Embedding:
    """Return a lookup table (rows, width) with entries from N(0, std^2)."""
    layer = nn.Embedding(rows, width, device="meta").to_empty(device="cpu")
    nn.init.normal_(layer.weight, std=std, generator=generator)
    return layer


def _fill(layer: nn.Linear | nn.Conv2d, generator: torch.Generator, zero: bool) -> None:
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
