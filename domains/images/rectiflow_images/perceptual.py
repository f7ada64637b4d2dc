"""A distance between images that looks at features of a network instead of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_FLOOR = 1e-2  # below this length a feature counts as absent: a direction of rounding errors is none


def feature_distance(maps: Callable[[Tensor], Sequence[Tensor]], x: Tensor, target: Tensor) -> Tensor:
    """Mean over layers and places of |f(x) / |f(x)| - f(target) / |f(target)||^2, lengths over channels; (B,), in [0, 4].

    The form of LPIPS (arXiv 1801.03924, equation 1) with all channels weighed alike in place of its learned weights, on
    whatever network is at hand: its values compare with no published ones. Features that are never negative give at most 2.

    Args:
        maps: images -> feature maps (B, channels, ...), one a layer.
        x: (B, C, H, W), in [-1, 1] or somewhat beyond; the gradient flows to these.
        target: (B, C, H, W), the images to be near to.
    """
    with torch.no_grad():
        wanted = [_directions(layer) for layer in maps(target)]
    found = [_directions(layer) for layer in maps(x)]
    layers = [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(layers).mean(0)


def _directions(layer: Tensor) -> Tensor:
    """Features (B, channels, places) at unit length over their channels, the faint ones shorter."""
    layer = layer.reshape(len(layer), layer.shape[1], -1)
    return layer / (layer.square().sum(1, keepdim=True) + _FLOOR**2).sqrt()
