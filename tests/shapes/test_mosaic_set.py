"""Mosaics as states of a flow: there and back, alike in size, and a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.meshes import inspect
from rectiflow_shapes.mosaic import Mosaic
from rectiflow_shapes.mosaic_set import MosaicSet, convert_all
from rectiflow_shapes.shape_data import ShapeData, assemble
from rectiflow_shapes.solids import draw


@pytest.fixture(scope="module")
def shapes() -> ShapeData:
    solids = [draw("demo", index) for index in range(12)]
    clouds = [trimesh.sample.sample_surface(solid.mesh, 2048, seed=0)[0] for solid in solids]
    return assemble(
        "twelve",
        tuple(dict.fromkeys(solid.kind for solid in solids)),
        [solid.label for solid in solids],
        [solid.units for solid in solids],
        [solid.caption for solid in solids],
        {"cloud": np.stack(clouds).astype(np.float16)},
        lambda index: solids[index].mesh,
        tuple(sorted({name for solid in solids for name in solid.units})),
    )


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))


def parts(mosaics: list[Mosaic]) -> list[Tensor]:
    return [torch.stack(part) for part in zip(*mosaics, strict=True)]


def test_all_components_bring_every_mosaic_back(shapes: ShapeData) -> None:
    whole = MosaicSet(cubes=24, nodes=4, rank=64, kept=0)
    whole.fit(shapes)
    state = whole.encode(shapes)
    assert isinstance(state, dict)
    assert {name: tuple(part.shape[1:]) for name, part in state.items()} == whole.shape
    made = convert_all(shapes, 24, 4)
    for found, expected in zip(parts(whole.mosaics(state)), made.values(), strict=True):
        assert (found - expected.float()).norm() <= 1e-6 * expected.float().norm()
    # Statistics and mosaics now come from the cache.
    again = MosaicSet(cubes=24, nodes=4, rank=64, kept=0)
    again.fit(shapes)
    assert torch.equal(again.encode(shapes)["values"], state["values"])  # type: ignore[call-overload]


def test_groups_have_one_size_and_fewer_components_are_the_first(shapes: ShapeData) -> None:
    some, whole = MosaicSet(rank=24, kept=0), MosaicSet(rank=343, kept=0)
    for representation in (some, whole):
        representation.fit(shapes)
        state = representation.encode(shapes)
        assert isinstance(state, dict)
        for part in state.values():
            assert float(part.square().mean().sqrt()) == pytest.approx(1, abs=0.05)
    first, all_of_them = some.encode(shapes), whole.encode(shapes)
    assert isinstance(first, dict)
    assert isinstance(all_of_them, dict)
    ratio = all_of_them["values"][..., :24] / first["values"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.median())), atol=1e-3, rtol=1e-3)


def test_a_tenth_of_the_numbers_decodes_to_the_same_solids(shapes: ShapeData, generator: torch.Generator) -> None:
    representation = MosaicSet()
    representation.fit(shapes)
    state = representation.encode(shapes.pick(torch.arange(6)))
    assert isinstance(state, dict)
    order = torch.randperm(64, generator=generator)
    fields = representation.decode(state)
    shuffled = representation.decode({name: part[:, order] for name, part in state.items()})
    torch.testing.assert_close(shuffled, fields, atol=1e-5, rtol=0)
    for number, mesh in enumerate(representation.meshes(state)):
        assert inspect(mesh).valid
        assert mesh.volume == pytest.approx(shapes.mesh(number).volume, rel=0.1)


def test_mosaics_that_lose_their_shapes_are_refused(shapes: ShapeData) -> None:
    with pytest.raises(DataError, match=r"8 cubes of 3\^3 nodes keep .* of 0% of the shapes"):
        MosaicSet(cubes=8, nodes=3, rank=27).fit(shapes)


def test_scales_stay_within_those_of_the_training_shapes(shapes: ShapeData) -> None:
    representation = MosaicSet(rank=4, kept=0)
    representation.fit(shapes)
    low, high = representation.statistics["log_scale_range"].exp().tolist()
    for push, expected in ((-1e6, low), (1e6, high)):
        state = {
            name: torch.full((1, *shape), push if name == "scales" else 0.0)
            for name, shape in representation.shape.items()
        }  # type: ignore[union-attr]
        assert representation.mosaics(state)[0].scales.tolist() == pytest.approx([expected] * 64)


def test_states_and_settings_of_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="components"):
        MosaicSet().mosaics(torch.zeros(1, 64, 36))
    for wrong in ({"cubes": 0}, {"rank": 344}, {"whitening": 1.5}, {"kept": 2.0}):
        with pytest.raises(ConfigError):
            MosaicSet(**wrong)  # type: ignore[arg-type]
