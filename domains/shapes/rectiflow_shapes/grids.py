"""Truncated signed distances on a grid, exact in a band around the surface and of the right sign elsewhere."""

from __future__ import annotations

import itertools
import math

import torch
import trimesh
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_shapes.signed_distance import Engine, signed_distance

BAND = 0.15
"""Distance at which grids are cut off: two and a half cells of theirs."""
RESOLUTION = 32


def truncated_grid(
    mesh: trimesh.Trimesh, resolution: int = RESOLUTION, band: float = BAND, engine: Engine = "libigl"
) -> Tensor:
    """Signed distance, cut off at +-band and divided by it, (R, R, R) float32 in [-1, 1] at the nodes linspace(-1, 1, R)^3.

    A distance changes by no more than the way gone: blocks of 2^3 nodes whose centre is farther from the surface than any of
    their nodes can be are told by its sign alone.

    Raises:
        ConfigError: a resolution that is odd or below 4, or a band that is not positive.
    """
    if resolution < 4 or resolution % 2 or not band > 0:
        raise ConfigError(
            f"a grid of resolution {resolution} with band {band}; it must be even and at least 4, the band above 0"
        )
    step = 2 / (resolution - 1)
    corners = torch.arange(0, resolution, 2)
    blocks = torch.cartesian_prod(corners, corners, corners)
    centres = signed_distance(mesh, -1 + step * (blocks.double() + 0.5), engine)
    near = centres.abs() < band + step * math.sqrt(3) / 2
    nodes = blocks[:, None] + torch.tensor(list(itertools.product((0, 1), repeat=3)))
    values = centres.sign()[:, None].repeat(1, 8)
    values[near] = (signed_distance(mesh, -1 + step * nodes[near].double(), engine) / band).clamp(-1, 1)
    grid = torch.empty(resolution, resolution, resolution)
    grid[nodes[..., 0], nodes[..., 1], nodes[..., 2]] = values.float()
    return grid
