"""Folders of meshes: every bad one rejected with a reason, the others measured, a second run out of the cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.extraction import grid_points
from rectiflow_shapes.grids import truncated_grid
from rectiflow_shapes.isolating import Failure, isolated
from rectiflow_shapes.meshes import export
from rectiflow_shapes.preparing import load, prepare, prepare_folder, sample_surface, save
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import draw

BALL = trimesh.creation.icosphere(4, 0.9)
RING, BAR = 0.8, 0.1  # radii


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))


def test_points_lie_where_they_are_said_to(generator: torch.Generator) -> None:
    shape = prepare(BALL, generator, 3000)
    assert shape.repair == "as it is"
    assert (shape.surface.norm(dim=1) - 0.9).abs().max() < 2e-3
    # A flat face of a ball of this size turns by at most two degrees against the ball itself.
    assert ((shape.normals * shape.surface).sum(dim=1) / 0.9 > 0.998).all()
    assert (shape.near_sdf - (shape.near.norm(dim=1) - 0.9)).abs().max() < 3e-3
    assert (shape.volume_sdf - (shape.volume.norm(dim=1) - 0.9)).abs().max() < 3e-3
    assert shape.volume.shape == (1000, 3)
    assert shape.volume.abs().max() <= 1
    # Half the near points with each deviation: what is left of the normal part of the offsets.
    offsets = (shape.near - shape.surface).flatten()
    assert float(offsets[:4500].std()) == pytest.approx(0.02, rel=0.05)
    assert float(offsets[4500:].std()) == pytest.approx(0.08, rel=0.05)
    assert shape.mesh.is_volume


def ring_through_itself() -> trimesh.Trimesh:
    """One closed piece: a bar bent into a ring, whose ends lie a little way inside one another."""
    sections, around = 121, 32
    angles = np.linspace(0, 2 * np.pi + 0.02, sections)
    turns = np.linspace(0, 2 * np.pi, around, endpoint=False)
    outwards = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    across = outwards[:, None] * (RING + BAR * np.cos(turns))[:, None]
    circles = across + np.sin(turns)[:, None] * np.array([0.0, 0.0, BAR])
    vertices = np.concatenate([circles.reshape(-1, 3), RING * outwards[[0, -1]]])
    own, following = np.arange(around), (np.arange(around) + 1) % around
    first = around * np.arange(sections - 1)[:, None]
    a, b, c, d = (first + part for part in (own, around + own, around + following, following))
    end, start_middle, end_middle = around * (sections - 1), len(vertices) - 2, len(vertices) - 1
    faces = [
        np.stack([a, b, c], axis=-1).reshape(-1, 3),
        np.stack([a, c, d], axis=-1).reshape(-1, 3),
        np.stack([np.full(around, start_middle), own, following], axis=1),
        np.stack([np.full(around, end_middle), end + following, end + own], axis=1),
    ]
    return trimesh.Trimesh(vertices, np.concatenate(faces), process=False)


def to_ring(points: Tensor) -> Tensor:
    return torch.stack([points[:, :2].norm(dim=1) - RING, points[:, 2]], dim=1).norm(dim=1) - BAR


def test_signs_hold_where_a_surface_runs_through_itself(generator: torch.Generator) -> None:
    shape = prepare(ring_through_itself(), generator, 20000)
    assert shape.repair == "as it is"
    for points, told in ((shape.near, shape.near_sdf), (shape.volume, shape.volume_sdf)):
        expected = to_ring(points)
        clear = expected.abs() > 3e-3
        assert torch.equal(told[clear].sign(), expected[clear].sign())
    # What libigl's pseudo-normals say of the same points.
    clear = to_ring(shape.near).abs() > 3e-3
    assert (signed_distance(shape.mesh, shape.near)[clear].sign() != shape.near_sdf[clear].sign()).sum() > 10
    grid = truncated_grid(shape.mesh, 32, engine="winding").flatten()
    expected = to_ring(grid_points(32).reshape(-1, 3))
    assert torch.equal(grid[expected.abs() > 3e-3].sign(), expected[expected.abs() > 3e-3].sign())


@pytest.mark.parametrize("gap", [0.0, 2e-6])
def test_walls_between_pieces_that_touch_are_no_surface(gap: float, generator: torch.Generator) -> None:
    half = trimesh.creation.box((0.9, 0.6, 0.8))
    left, right = (trimesh.Trimesh(half.vertices + np.array([x, 0, 0]), half.faces) for x in (-0.45 - gap, 0.45))
    shape = prepare(left + right, generator, 3000)
    beyond = shape.near.abs() - torch.tensor([0.9, 0.3, 0.4])
    expected = beyond.clamp(min=0).norm(dim=1) + beyond.amax(dim=1).clamp(max=0)
    assert shape.repair == "pieces united"
    assert (shape.near_sdf - expected).abs().max() < 2e-3
    assert (shape.surface.abs() / torch.tensor([0.9, 0.3, 0.4])).amax(dim=1).min() > 0.99


def test_surface_points_are_even_over_the_area_and_within_faces(generator: torch.Generator) -> None:
    # Two triangles, one of them nine times the other.
    mesh = trimesh.Trimesh(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [3, 0, 1], [0, 3, 1], [0, 0, 1]], [[0, 1, 2], [5, 3, 4]], process=False
    )
    points, normals = sample_surface(mesh, 20000, generator)
    small = points[:, 2] == 0
    assert float(small.float().mean()) == pytest.approx(0.1, abs=4 * (0.09 / 20000) ** 0.5)
    # The mean of a uniform point is the centroid, its variance (a^2 + b^2 - a b) / 18 of legs a and b along each: 1/18.
    assert torch.allclose(points[small, :2].mean(dim=0), torch.full((2,), 1 / 3), atol=4 * (1 / 18 / 2000) ** 0.5)
    assert (points[small, :2].sum(dim=1) <= 1 + 1e-6).all()
    assert torch.equal(normals[:, 2], torch.ones(20000))
    with pytest.raises(DataError, match="no area"):
        sample_surface(trimesh.Trimesh(), 10, generator)


def test_a_shape_comes_back_from_its_file(tmp_path: Path, generator: torch.Generator) -> None:
    shape = prepare(draw("wide", 3).mesh, generator, 64)
    save(shape, tmp_path / "shape.npz")
    again = load(tmp_path / "shape.npz")
    assert again.repair == shape.repair
    assert torch.equal(again.near_sdf, shape.near_sdf)
    assert torch.equal(again.faces, shape.faces)
    (tmp_path / "shape.npz").write_bytes((tmp_path / "shape.npz").read_bytes()[:500])
    with pytest.raises(DataError, match="prepare again"):
        load(tmp_path / "shape.npz")


def test_a_folder_goes_on_over_bad_meshes_and_counts_them(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    export(BALL, folder / "ball.ply")
    open_ball = trimesh.Trimesh(BALL.vertices, BALL.faces[1:], process=False)
    export(open_ball, folder / "deeper" / "open.stl")
    (folder / "empty.stl").write_bytes(b"")
    (folder / "cut.ply").write_bytes((folder / "ball.ply").read_bytes()[:2000])
    (folder / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "notes.txt").write_text("not a mesh")
    done = prepare_folder(folder, points=128, processes=1)
    assert [path.name for path in done.shapes] == ["ball.ply", "open.stl"]
    assert done.repairs == {"as it is": 1, "holes filled": 1}
    assert {path.name: bool(reason) for path, reason in done.rejected.items()} == {
        "cut.ply": True,
        "empty.stl": True,
        "flat.obj": True,
    }
    assert str(done) == "2 meshes of use (1 as it is, 1 holes filled), 3 rejected"
    started = time.monotonic()
    assert prepare_folder(folder, points=128, processes=1) == done
    assert time.monotonic() - started < 2
    first = load(next(iter(done.shapes.values())))
    assert (first.near_sdf - (first.near.norm(dim=1) - 0.9)).abs().max() < 3e-3


def test_processes_that_die_hang_or_swell_cost_their_item_only() -> None:
    died = dict(isolated(os._exit, [3, 4], processes=2, seconds=60, megabytes=100))
    assert all(isinstance(result, Failure) for result in died.values())
    assert "exit code 3" in died[0].reason
    slept = dict(isolated(time.sleep, [0.0, 60.0, 0.0], processes=1, seconds=1.5, megabytes=100))
    assert slept[0] is None
    assert slept[2] is None
    assert "more than 1.5 s" in slept[1].reason
    swelled = dict(isolated(bytes, [10, 4 << 30, 20], processes=1, seconds=60, megabytes=500))
    assert [len(swelled[0]), len(swelled[2])] == [10, 20]
    assert "500 MB" in swelled[1].reason


def test_what_cannot_be_prepared_is_said(tmp_path: Path, generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        prepare_folder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no mesh"):
        prepare_folder(tmp_path)
    with pytest.raises(ConfigError, match="processes=0"):
        list(isolated(abs, [1], processes=0, seconds=1, megabytes=1))
    with pytest.raises(ConfigError, match="points is 2"):
        prepare(BALL, generator, 2)
