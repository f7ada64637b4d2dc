"""Meshes out of fields: where their vertices lie, that they are closed, and what fills the gaps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow_shapes.extraction import evaluate_coarse_to_fine, flood_signs, grid_points, surface, without_specks


def torus(points: Tensor) -> Tensor:
    return torch.hypot(torch.hypot(points[..., 0], points[..., 1]) - 0.6, points[..., 2]) - 0.25


def box(points: Tensor, half: tuple[float, float, float] = (0.5, 0.35, 0.7)) -> Tensor:
    beyond = points.abs() - points.new_tensor(half)
    return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)


def test_vertices_of_a_torus_approach_it_at_second_order() -> None:
    errors = []
    for resolution, bound in ((64, 6e-4), (128, 2e-4)):
        mesh = surface(torus(grid_points(resolution)))
        assert mesh.is_volume
        assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.25**2, rel=4e-3)
        errors.append(float(torus(torch.from_numpy(mesh.vertices)).abs().max()))
        assert errors[-1] <= bound
    assert errors[0] / errors[1] >= 3.5


@pytest.mark.parametrize("resolution", [17, 32, 65])
def test_index_to_world_is_exact(resolution: int) -> None:
    # A plane that no node lies on: linear interpolation has no error, and nothing is symmetric about the centre.
    field = grid_points(resolution)[..., 0] - 0.2137
    inner = surface(field).vertices
    inner = inner[(abs(inner[:, 1]) < 0.99) & (abs(inner[:, 2]) < 0.99) & (inner[:, 0] > -0.99)]
    assert len(inner) > 0
    assert abs(inner[:, 0] - 0.2137).max() < 1e-6


def test_axes_keep_their_order() -> None:
    extents = surface(box(grid_points(64))).extents
    assert extents == pytest.approx([1.0, 0.7, 1.4], abs=1e-3)


def test_a_surface_through_nodes_is_one_solid_without_flat_triangles() -> None:
    mesh = surface(box(grid_points(33), (0.5, 0.25, 0.75)))
    assert mesh.is_volume
    assert mesh.body_count == 1
    assert mesh.area_faces.min() > 1e-4
    assert mesh.extents == pytest.approx([1.0, 0.5, 1.5], abs=1e-3)


def test_nothing_inside_gives_no_faces_and_everything_a_closed_box() -> None:
    assert len(surface(torch.ones(8, 8, 8)).faces) == 0
    full = surface(-torch.ones(8, 8, 8))
    assert full.is_volume
    assert full.volume > 0


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 9), (1, 1, 1)])
def test_fields_that_are_no_cubes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        surface(torch.ones(shape))


def test_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="NaN"):
        surface(torch.full((8, 8, 8), float("nan")))


def test_uncovered_space_takes_its_sign_from_where_it_is() -> None:
    field = box(grid_points(48))
    covered = field.abs() < 0.12
    mesh = surface(flood_signs(field, covered))
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(0.98, rel=0.02)
    # The trap: a constant outside value turns the hollow into a second surface, which is closed as well.
    shells = surface(torch.where(covered, field, torch.ones(())))
    assert shells.is_watertight
    assert shells.body_count == 2
    assert shells.volume < 0.85


def test_a_cavity_inside_a_solid_stays_outside() -> None:
    points = grid_points(48)
    field = (points.norm(dim=-1) - 0.6).abs() - 0.2
    filled = flood_signs(field, field.abs() < 0.08)
    assert torch.equal(filled < 0, field < 0)


def test_specks_of_either_sign_vanish_and_what_is_larger_stays() -> None:
    field = box(grid_points(33))
    spotted = field.clone()
    spotted[2, 2, 2:9] = -0.01  # seven nodes of solid outside
    spotted[16, 16, 12:19] = 0.01  # as many of hollow inside
    assert surface(spotted).body_count == 3
    assert torch.equal(without_specks(spotted) < 0, field < 0)
    spotted[2, 2, 9] = -0.01  # an eighth node
    assert surface(without_specks(spotted)).body_count == 2
    assert without_specks(field) is field


def test_coarse_to_fine_gives_the_same_surface_for_fewer_points() -> None:
    asked = 0

    def decode(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return torus(points)

    field = evaluate_coarse_to_fine(decode, 65, coarse=17)
    whole = torus(grid_points(65))
    near = whole.abs() < 0.04
    torch.testing.assert_close(field[near], whole[near])
    assert torch.equal(field < 0, whole < 0)
    assert asked < 0.6 * 65**3


def test_coarse_to_fine_of_a_truncated_field_asks_only_within_its_band() -> None:
    asked = 0

    def decode(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return torus(points).clamp(-0.1, 0.1)

    field = evaluate_coarse_to_fine(decode, 66, coarse=17, limit=0.1)
    assert torch.equal(field < 0, torus(grid_points(66)) < 0)
    assert asked < 0.5 * 66**3
