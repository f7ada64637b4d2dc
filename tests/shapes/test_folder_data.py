"""Meshes of a folder as training data: kinds and captions, a split that neither order nor names decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes import folder_data, preparing
from rectiflow_shapes.folder_data import folder
from rectiflow_shapes.meshes import export
from rectiflow_shapes.solids import draw


def at_once(function: Callable[[Any], Any], items: Sequence[Any], **limits: Any) -> Iterator[tuple[int, Any]]:
    """The same work in this process."""
    yield from ((number, function(item)) for number, item in enumerate(items))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparing, "isolated", at_once)
    monkeypatch.setattr(folder_data, "isolated", at_once)


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    root = tmp_path / "meshes"
    for index in range(10):
        solid = draw("demo", 1 + 4 * index)
        export(solid.mesh, root / solid.kind / f"{index}.ply")
    (root / "bad.stl").write_bytes(b"")
    kind = draw("demo", 1).kind
    (root / "captions.csv").write_text(f'file,caption\n{kind}/0.ply,"a tall, green bottle"\n')
    return root


def test_kinds_captions_and_arrays_are_those_of_the_meshes(meshes: Path) -> None:
    train, validation = folder(str(meshes), 0.4, 0)
    assert len(train) + len(validation) == 10
    assert train.kinds == validation.kinds == tuple(sorted({draw("demo", 1 + 4 * index).kind for index in range(10)}))
    told = [*train.captions, *validation.captions]
    assert told.count("a tall, green bottle") == 1
    assert all(caption.startswith("a ") for caption in told)
    assert train.attributes.shape == (len(train), 0)
    assert train.engine == validation.engine == "winding"
    assert train.arrays["grid"].shape == (len(train), 32, 32, 32)
    for number in range(len(train)):
        share = float((train.array("grid")[number] < 0).float().mean())
        assert share == pytest.approx(train.mesh(number).volume / 8, abs=0.02)
    again = folder(str(meshes), 0.4, 0).train
    assert again.key == train.key
    assert torch.equal(again.array("near"), train.array("near"))


def test_the_split_goes_with_the_content(meshes: Path) -> None:
    before = folder(str(meshes), 0.4, 0)
    for path in sorted(meshes.glob("*/*.ply")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    after = folder(str(meshes), 0.4, 0)
    assert len(after.validation) == len(before.validation)
    assert folder(str(meshes), 0.4, 6).train.key != before.train.key


def test_folders_that_give_no_data_are_said(meshes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        folder(str(meshes), 1.0, 0)
    with pytest.raises(DataError, match="each needs 2 or more"):
        folder(str(meshes), 0.001, 0)
    (meshes / "captions.csv").write_text("name,words\nx,y\n")
    with pytest.raises(ConfigError, match="columns file and caption"):
        folder(str(meshes), 0.4, 0)
