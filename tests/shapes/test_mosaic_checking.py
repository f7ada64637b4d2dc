"""What a conversion sees of what it lost, what it does about it, and what it refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow_shapes.mosaic import convert
from rectiflow_shapes.mosaic_checking import Fidelity, bodies, convert_faithfully, fidelity, wall_thickness
from rectiflow_shapes.preparing import sample_surface
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import FAMILIES, draw


def distance_to(mesh: trimesh.Trimesh) -> Callable[[Tensor], Tensor]:
    return functools.partial(signed_distance, mesh)


def thin(kind: str) -> trimesh.Trimesh:
    return draw("wide", list(FAMILIES["wide"]).index(kind), split="validation").mesh


def test_thin_walls_need_many_cubes_and_the_check_sees_it(generator: torch.Generator) -> None:
    mug = thin("mug")
    points, _ = sample_surface(mug, 8192, generator)
    few, many = (fidelity(convert(points, distance_to(mug), cubes), mug) for cubes in (64, 512))
    assert few.volume_ratio < 0.6
    assert not few.faithful
    assert many.faithful
    with pytest.raises(DataError, match=r"of 7\^3 nodes keeps .* of the volume.*use more cubes"):
        convert_faithfully(mug, generator, ((16, 7),), resolution=96)


def test_a_conversion_that_keeps_too_little_takes_more_cubes_with_fitted_values(generator: torch.Generator) -> None:
    goblet = thin("goblet")
    kept = convert_faithfully(goblet, generator, ((16, 7), (256, 7), (512, 11)))
    assert kept.values.shape == (256, 7, 7, 7)
    assert fidelity(kept, goblet, 192).keeps(0.05)
    plain = convert(sample_surface(goblet, 8192, generator)[0], distance_to(goblet), 256)
    assert fidelity(plain, goblet, 192).volume_ratio < 0.8


def test_walls_that_no_grid_shows_are_told_in_cells(generator: torch.Generator) -> None:
    sheet = trimesh.creation.box((1.6, 1.2, 0.01))
    with pytest.raises(DataError, match=r"thinner than 0\.[12] cells of the grid of 32: judge it on a finer grid"):
        convert_faithfully(sheet, generator, ((64, 7),), resolution=32)


def test_thickness_is_that_of_the_walls(generator: torch.Generator) -> None:
    found = wall_thickness(trimesh.creation.box((1.6, 1.2, 0.05)), generator)
    assert found.quantile(0.5).item() == pytest.approx(0.05, rel=0.16)
    assert (found >= 0.0499).all()


@pytest.mark.parametrize(
    ("cubes", "kinds", "least"), [(256, tuple(FAMILIES["demo"]), 0.8), (64, ("bottle", "gear"), 0.9)]
)
def test_kinds_keep_their_volume_in_one_body(
    cubes: int, kinds: tuple[str, ...], least: float, generator: torch.Generator
) -> None:
    for kind in kinds:
        mesh = draw("demo", list(FAMILIES["demo"]).index(kind)).mesh
        found = fidelity(convert(sample_surface(mesh, 4096, generator)[0], distance_to(mesh), cubes), mesh)
        assert found.volume_ratio >= least, kind
        assert found.bodies == 1, kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES["wide"])
def test_256_cubes_keep_thin_kinds_too(kind: str, generator: torch.Generator) -> None:
    for split in ("train", "validation"):
        mesh = draw("wide", list(FAMILIES["wide"]).index(kind), split=split).mesh  # type: ignore[arg-type]
        mosaic = convert_faithfully(mesh, generator, ((256, 7), (256, 11)))
        assert fidelity(mosaic, mesh, 192).keeps(0.05)


def test_bodies_are_what_holds_a_two_hundredth_of_the_volume() -> None:
    ball = trimesh.creation.icosphere(3, 0.5)
    for radius, counted in ((0.07, 1), (0.1, 2)):  # cubes of 0.14 and 0.2: 0.0027 and 0.008 of the volume
        small = trimesh.creation.icosphere(3, radius)
        small.apply_translation([0.8, 0, 0])
        assert bodies(ball + small) == counted
    hollow = trimesh.creation.icosphere(3, 0.3)
    assert bodies(ball + trimesh.Trimesh(hollow.vertices, hollow.faces[:, ::-1])) == 2
    assert bodies(trimesh.Trimesh()) == 0


def test_volume_and_bodies_count_both() -> None:
    assert Fidelity(0.96, 1, 1).keeps(0.05)
    assert not Fidelity(0.94, 1, 1).keeps(0.05)
    assert not Fidelity(1.06, 1, 1).keeps(0.05)
    assert not Fidelity(1.0, 2, 1).keeps(0.05)
    assert Fidelity(0.91, 2, 2).faithful
