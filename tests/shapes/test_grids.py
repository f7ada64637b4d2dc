"""Truncated grids against the distances of a sphere and of every node."""

from __future__ import annotations

import pytest
import torch
import trimesh

from rectiflow.errors import ConfigError
from rectiflow_shapes.grids import truncated_grid
from rectiflow_shapes.signed_distance import sdf_grid


def test_blocks_change_nothing() -> None:
    knot = trimesh.creation.torus(0.6, 0.12)
    for resolution, band in ((16, 0.3), (32, 0.15)):
        every = (sdf_grid(knot, resolution) / band).clamp(-1, 1)
        torch.testing.assert_close(truncated_grid(knot, resolution, band), every, rtol=0, atol=1e-5)


def test_a_ball() -> None:
    axis = torch.linspace(-1, 1, 32)
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.6)
    error = truncated_grid(ball) - ((radius - 0.6) / 0.15).clamp(-1, 1)
    assert error.abs().max() < 1e-3 / 0.15


def test_wrong_grids() -> None:
    with pytest.raises(ConfigError, match="resolution 31"):
        truncated_grid(trimesh.creation.box(), 31)
    with pytest.raises(ConfigError, match="band 0"):
        truncated_grid(trimesh.creation.box(), 16, 0)
