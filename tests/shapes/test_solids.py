"""Built-in solids: watertight, of one body, in place, repeatable, named by true words; thick walls where they are promised."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import trimesh
from skimage.measure import marching_cubes

from rectiflow.errors import ConfigError
from rectiflow_shapes.attributes import Attribute
from rectiflow_shapes.building import box, half_ring, lathe, rod, thread
from rectiflow_shapes.signed_distance import sdf_grid
from rectiflow_shapes.solids import FAMILIES, LONGEST_SIDE, Solid, draw, held_out

CASES = [(family, label) for family, kinds in FAMILIES.items() for label in range(len(kinds))]


def digest(solid: Solid) -> str:
    return hashlib.sha256(solid.mesh.vertices.tobytes() + solid.mesh.faces.tobytes()).hexdigest()


@pytest.mark.parametrize("each", [6, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("family", "label"), CASES, ids=lambda value: str(value))
def test_solids_are_closed_single_bodies_of_the_same_size(family: str, label: int, each: int) -> None:
    kinds = FAMILIES[family]
    for place in range(each):
        solid = draw(family, label + place * len(kinds), split="train" if place % 2 else "validation")
        assert solid.kind == list(kinds)[label]
        assert solid.label == label
        assert solid.mesh.is_volume
        assert solid.mesh.volume > 0
        assert solid.mesh.body_count == 1
        sides = np.ptp(solid.mesh.vertices, axis=0)
        assert sides.max() == pytest.approx(LONGEST_SIDE, abs=1e-6)
        assert np.abs(solid.mesh.vertices.max(axis=0) + solid.mesh.vertices.min(axis=0)).max() < 1e-6


def test_an_index_gives_the_same_solid_in_any_order_and_differs_by_seed_split_and_family() -> None:
    later, earlier = draw("demo", 9), draw("demo", 2)
    assert digest(draw("demo", 2)) == digest(earlier)
    assert digest(draw("demo", 9)) == digest(later)
    assert draw("demo", 9).caption == later.caption
    others = [later, draw("demo", 9, seed=1), draw("demo", 9, split="validation"), draw("wide", 9), draw("demo", 15)]
    assert len({digest(solid) for solid in others}) == len(others)


@pytest.mark.parametrize(("split", "wanted"), [("train", False), ("validation", True)])
def test_the_splits_share_no_combination(split: str, wanted: bool) -> None:
    kind = FAMILIES["demo"]["chair"]
    for place in range(40):
        solid = draw("demo", 2 + 6 * place, split=split)  # type: ignore[arg-type]
        assert held_out(kind, solid.units) == wanted


def test_one_cell_of_each_row_and_column_is_held_out() -> None:
    kind = FAMILIES["demo"]["bottle"]
    cells = np.array(
        [[held_out(kind, {"body": (i + 0.5) / 8, "shoulder": (j + 0.5) / 8}) for j in range(8)] for i in range(8)]
    )
    assert (cells.sum(axis=0) == 1).all()
    assert (cells.sum(axis=1) == 1).all()


def test_attributes_lie_in_their_ranges_and_vary() -> None:
    for family, kinds in FAMILIES.items():
        for label, kind in enumerate(kinds.values()):
            drawn = [draw(family, label + place * len(kinds)) for place in range(8)]
            for attribute in kind.attributes:
                values = [solid.attributes[attribute.name] for solid in drawn]
                assert attribute.low <= min(values)
                assert max(values) <= attribute.high
                assert len(set(values)) > 1 or attribute.low == attribute.high
            assert all(0 <= unit <= 1 for solid in drawn for unit in solid.units.values())


def test_captions_tell_the_truth() -> None:
    for place in range(60):
        solid = draw("demo", 5 + 6 * place)
        told = solid.caption
        assert told.startswith(("a ", "an "))
        assert "table" in told
        assert "round" not in told or solid.attributes["round"] == 1
        assert "four legs" not in told or solid.attributes["pedestal"] == 0
        assert "low" not in told.split() or solid.units["height"] < 1 / 3
    assert any("with four legs" in draw("demo", 5 + 6 * place).caption for place in range(20))


def test_words_of_an_attribute_divide_its_range() -> None:
    size = Attribute("size", 1.0, 4.0, ("small", "", "large"))
    assert [size.word(value) for value in (1.0, 1.99, 2.01, 3.01, 4.0)] == ["small", "small", "", "large", "large"]
    legs = Attribute("legs", 3, 4, ("with three legs", "with four legs"), whole=True)
    assert {legs.value(unit) for unit in np.linspace(0, 0.999, 50)} == {3, 4}
    assert [legs.word(3), legs.word(4)] == ["with three legs", "with four legs"]


def test_parts_have_the_volumes_of_their_formulas() -> None:
    assert box((1, 2, 3), (5, 5, 5)).volume() == pytest.approx(6)
    # Inscribed polygons of n corners: the area is n / 2 sin(2 pi / n) r^2.
    round_32 = 16 * np.sin(np.pi / 16)
    assert lathe([(0, 0), (2, 0), (2, 3), (0, 3)]).volume() == pytest.approx(round_32 * 4 * 3, rel=1e-6)
    assert rod((1, 1, 1), (3, 1, 1), 0.5).volume() == pytest.approx(8 * np.sin(np.pi / 8) * 0.25 * 2, rel=1e-5)
    assert rod((0, 0, 0), (0, 3, 4), 0.5).bounding_box()[4:] == pytest.approx((3.3 + 0.1, 4.3), abs=0.15)
    # Pappus: a circle carried half around a circle.
    ring = half_ring(1.0, 1.0, 0.1)
    assert ring.volume() == pytest.approx(np.pi * (6 * np.sin(np.pi / 6)) * 0.1**2, rel=0.01)
    assert thread(1.0, 0.1, 5.0, 10).volume() == pytest.approx(np.pi * 0.9**2 * 5, rel=0.06)


@pytest.mark.parametrize("each", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_no_wall_of_the_demo_family_is_lost_on_a_grid_of_32(each: int) -> None:
    kinds = FAMILIES["demo"]
    kept = []
    for index in range(each * len(kinds)):
        solid = draw("demo", index)
        vertices, faces, _, _ = marching_cubes(sdf_grid(solid.mesh, 32).numpy(), 0.0)
        decoded = trimesh.Trimesh(vertices * 2 / 31 - 1, faces)
        same = decoded.is_volume and decoded.body_count == 1
        kept.append(same and 0.85 < abs(decoded.volume) / solid.mesh.volume < 1.1)
    assert len(kinds) >= 5
    assert np.mean(kept) >= 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toys", 0), "there are demo, wide"),
        (("demo", -1), "index -1"),
        (("demo", 0, -2), "seed -2"),
        (("demo", 0, 0, "test"), "train or validation"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(*arguments)  # type: ignore[arg-type]
