"""The classifier of clouds: right on shapes that it has not seen, the same every time, and blind to the order of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from rectiflow.errors import DataError
from rectiflow_shapes.classifier import PointClassifier, trained_classifier
from rectiflow_shapes.shape_data import ShapeData, assemble
from rectiflow_shapes.solids import FAMILIES, Split, draw


def shapes(count: int, split: Split) -> ShapeData:
    solids = [draw("demo", index, split=split) for index in range(count)]
    clouds = [trimesh.sample.sample_surface(solid.mesh, 512, seed=index)[0] for index, solid in enumerate(solids)]
    return assemble(
        f"test-{split}-{count}",
        tuple(FAMILIES["demo"]),
        [solid.label for solid in solids],
        [solid.units for solid in solids],
        [solid.caption for solid in solids],
        {"cloud": np.stack(clouds).astype(np.float16)},
        lambda index: solids[index].mesh,
        tuple(sorted({name for solid in solids for name in solid.units})),
    )


def test_held_out_shapes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    train, held = shapes(180, "train"), shapes(60, "validation")
    state = torch.random.get_rng_state()
    classifier = trained_classifier(train)
    assert torch.equal(torch.random.get_rng_state(), state)
    clouds = held.array("cloud")
    assert float((classifier.predict(clouds) == held.labels).float().mean()) >= 0.9
    # From the cache, and without a look at the order of the points.
    again = trained_classifier(train)
    assert all(torch.equal(a, b) for a, b in zip(classifier.parameters(), again.parameters(), strict=True))
    torch.testing.assert_close(again(clouds[:4].flip(1)), classifier(clouds[:4]))


def test_clouds_with_too_few_points_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(DataError, match="256"):
        PointClassifier(3, generator).predict(torch.zeros(2, 100, 3))
