"""Distances against closed forms: sign, value and slope; and points spread evenly over surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable

import igl
import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.signed_distance import ENGINES, Engine, sdf_grid, signed_distance

POINTS = 20_000


def uniform(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1


def sphere(p: Tensor) -> Tensor:
    return p.norm(dim=-1) - 0.5


def torus(p: Tensor) -> Tensor:
    return torch.stack([p[..., :2].norm(dim=-1) - 0.6, p[..., 2]], dim=-1).norm(dim=-1) - 0.25


def box(p: Tensor) -> Tensor:
    beyond = p.abs() - torch.tensor([0.5, 0.3, 0.4], dtype=p.dtype)
    return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(dim=-1).clamp(max=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("mesh", "exact", "tolerance"),
    [
        (lambda: trimesh.creation.icosphere(4, 0.5), sphere, 1.5e-3),
        (lambda: trimesh.creation.torus(0.6, 0.25, major_sections=100, minor_sections=50), torus, 1.5e-3),
        (lambda: trimesh.creation.box((1.0, 0.6, 0.8)), box, 1e-9),
    ],
    ids=["sphere", "torus", "box"],
)
def test_distances_are_those_of_the_formula_negative_inside(
    mesh: Callable[[], trimesh.Trimesh],
    exact: Callable[[Tensor], Tensor],
    tolerance: float,
    engine: Engine,
    generator: torch.Generator,
) -> None:
    points = uniform(POINTS, generator)
    found, expected = signed_distance(mesh(), points, engine), exact(points)
    assert (found - expected).abs().max() <= tolerance
    clear = expected.abs() > 3e-3
    assert torch.equal(found[clear].sign(), expected[clear].sign())
    assert (expected < 0).sum() > 100


def test_a_turned_box_is_measured_exactly(generator: torch.Generator) -> None:
    turn = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])
    mesh = trimesh.creation.box((1.0, 0.6, 0.8), transform=turn)
    points = uniform(POINTS, generator)
    back = points @ torch.from_numpy(turn[:3, :3])
    assert (signed_distance(mesh, points) - box(back)).abs().max() <= 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_distances_have_slope_one_far_away_too(engine: Engine, generator: torch.Generator) -> None:
    mesh = trimesh.creation.torus(0.6, 0.25, major_sections=60, minor_sections=30)
    points = 3 * uniform(6000, generator)
    # Away from where two parts of the surface are equally near: the axis and the core circle.
    points = points[(points[:, :2].norm(dim=1) > 0.1) & (torus(points) > -0.2)][:5000]
    assert len(points) == 5000
    step = 1e-4
    slopes = []
    for axis in torch.eye(3, dtype=torch.float64):
        slopes.append(
            signed_distance(mesh, points + step * axis, engine) - signed_distance(mesh, points - step * axis, engine)
        )
    gradient = (torch.stack(slopes, dim=-1) / (2 * step)).norm(dim=-1)
    assert (gradient - 1).abs().max() <= 0.02


def test_the_mode_that_is_never_used_scales_distances(generator: torch.Generator) -> None:
    mesh = trimesh.creation.torus(0.6, 0.25, major_sections=100, minor_sections=50)
    points = 3 * uniform(2000, generator)
    kind = igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    scaled = igl.signed_distance(points.numpy(), mesh.vertices, mesh.faces.astype(np.int64), sign_type=kind)[0]
    exact = signed_distance(mesh, points)
    far = exact.abs() > 0.5
    assert (torch.from_numpy(scaled)[far] / exact[far] - 1).abs().max() > 2e-3


def test_the_winding_engine_bears_holes() -> None:
    whole = trimesh.creation.icosphere(3, 0.5)
    holed = trimesh.Trimesh(whole.vertices, whole.faces[20:], process=False)
    middle = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]])
    found = signed_distance(holed, middle, "winding")
    assert found[0] < 0 < found[1]


def test_a_sliver_without_area_leaves_no_distance_undefined(generator: torch.Generator) -> None:
    whole = trimesh.creation.box((1.0, 0.6, 0.8))
    # One side of an edge gets a vertex in its middle; the gap to the other side is closed by a triangle without area.
    (a, b), (face, _) = whole.face_adjacency_edges[0], whole.face_adjacency[0]
    [c] = set(whole.faces[face]) - {a, b}
    if np.roll(whole.faces[face], -list(whole.faces[face]).index(a))[1] != b:
        a, b = b, a
    middle = len(whole.vertices)
    vertices = np.concatenate([whole.vertices, whole.vertices[[a, b]].mean(0, keepdims=True)])
    faces = np.concatenate([np.delete(whole.faces, face, 0), [[a, middle, c], [middle, b, c], [a, b, middle]]])
    sliver = trimesh.Trimesh(vertices, faces, process=False)
    assert sliver.is_watertight
    beside = torch.from_numpy(vertices[middle] * np.linspace(0.5, 1.5, 21)[:, None])
    points = torch.cat([uniform(2000, generator), beside])
    assert (signed_distance(sliver, points) - box(points)).abs().max() <= 1e-9


def test_grids_have_their_ends_on_the_box_and_keep_their_axes() -> None:
    mesh = trimesh.creation.box((1.0, 0.6, 0.8))
    grid = sdf_grid(mesh, 9)
    assert grid.shape == (9, 9, 9)
    assert grid.dtype == torch.float32
    assert float(grid[0, 4, 4]) == pytest.approx(0.5, abs=1e-6)
    assert float(grid[4, 0, 4]) == pytest.approx(0.7, abs=1e-6)
    assert float(grid[4, 4, 8]) == pytest.approx(0.6, abs=1e-6)
    assert float(grid[0, 0, 0]) == pytest.approx(math.sqrt(0.25 + 0.49 + 0.36), abs=1e-6)


def test_shape_and_dtype_are_those_of_the_points() -> None:
    mesh = trimesh.creation.icosphere(1)
    assert signed_distance(mesh, torch.zeros(2, 5, 3, dtype=torch.float32)).shape == (2, 5)
    assert signed_distance(mesh, torch.zeros(4, 3, dtype=torch.float32)).dtype == torch.float32
    assert signed_distance(mesh, torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize(
    ("mesh", "points", "engine", "error"),
    [
        (trimesh.creation.box(), torch.zeros(4, 2), "libigl", ConfigError),
        (trimesh.creation.box(), torch.zeros(4, 3), "magic", ConfigError),
        (trimesh.creation.box(), torch.full((4, 3), torch.nan), "libigl", DataError),
        (trimesh.Trimesh(), torch.zeros(4, 3), "libigl", DataError),
        (trimesh.Trimesh(np.full((3, 3), np.inf), [[0, 1, 2]], process=False), torch.zeros(4, 3), "libigl", DataError),
    ],
)
def test_what_has_no_distance_is_refused(mesh: trimesh.Trimesh, points: Tensor, engine: Engine, error: type) -> None:
    with pytest.raises(error):
        signed_distance(mesh, points, engine)
