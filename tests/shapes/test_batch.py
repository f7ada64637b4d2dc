"""Tables of prompts: read with care, drawn row by row, gone on with after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh

from rectiflow.config import compose_training, compose_verb
from rectiflow.errors import ConfigError
from rectiflow.verbs import train
from rectiflow_shapes import SPEC
from rectiflow_shapes.batch import RESULTS, BatchSettings, _finished, _written, read_prompts, run

SMALL = ["data.count=8", "data.held=8", "representation.components=4", "representation.columns=2", "model.width=16"]
SMALL += ["model.depth=2", "model.heads=2", "training.steps=1", "training.batch=4", "training.preview_every=0"]


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_prompts(tmp_path: Path) -> None:
    first, second = read_prompts(
        table(tmp_path, 'name,kind,caption,seed,count\nstool,chair,"a low, wide chair",7,3\n,,,,\n')
    )
    assert (first.name, first.seed, first.count) == ("stool", 7, 3)
    assert first.request == {"kind": "chair", "caption": "a low, wide chair"}
    assert (second.name, second.request, second.seed, second.count) == ("00001", {}, 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 rows"),
        ("name,kind\n", "0 rows"),
        ("kind,colour\nchair,red\n", "columns among"),
        ("kind,seed\nchair,-1\n", "line 2: seed"),
        ("kind,count\nchair,0\n", "line 2: count"),
        ("kind,count\nchair,many\n", "line 2: count"),
        ("name,kind\na,chair\na,table\n", "2 times"),
        ("name,kind\n../../a,chair\n", "file name"),
        ("caption\na low, wide chair\n", "quotes"),
    ],
)
def test_bad_tables_are_said(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_prompts(table(tmp_path, text))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere.csv")


def test_a_line_that_was_cut_off_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    path.write_text('{"name": "a", "key": "1", "shapes": []}\n{"name": "b", "k')
    assert _finished(path) == {"a": "1"}
    assert _finished(tmp_path / "nowhere") == {}


def test_a_shape_that_cannot_be_written_as_asked_stops_no_other(tmp_path: Path) -> None:
    ring, ball = trimesh.creation.torus(1, 0.3), trimesh.creation.icosphere(1)
    first, second = _written([ring, ball], "a", tmp_path, "stl", 6)  # a ring of 6 triangles would not be closed
    assert first["file"] is None
    assert "stay closed" in first["refused"]
    assert second["file"] == "a-1.stl"
    assert second["faces"] == len(trimesh.load(tmp_path / "a-1.stl", force="mesh").faces) <= 6
    assert first["faces"] == len(ring.faces)
    assert "refused" not in second


@pytest.mark.slow
def test_a_batch_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    folder = train.run(SPEC, compose_training(SPEC, [*SMALL, f"out={tmp_path}", "name=tiny"]))
    prompts = table(tmp_path, "name,kind,count\na,chair,2\nb,mug,1\n")
    settings = [f"run={folder}", f"prompts={prompts}", "steps=2", f"out={tmp_path}/out", "format=stl", "max_faces=500"]
    out = run(SPEC, compose_verb(BatchSettings, {}, settings))
    rows = [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]
    assert [row["name"] for row in rows] == ["a", "b"]
    assert [len(row["shapes"]) for row in rows] == [2, 1]
    files = {shape["file"] for row in rows for shape in row["shapes"]} - {None}
    assert files == {path.name for path in out.glob("*.stl")}
    assert all(len(trimesh.load(out / name).faces) <= 500 for name in files)
    stamps = {name: (out / name).stat().st_mtime_ns for name in files}
    table(tmp_path, "name,kind,count\na,chair,2\nb,mug,1\nc,table,1\n")
    run(SPEC, compose_verb(BatchSettings, {}, settings))
    assert len((out / RESULTS).read_text().splitlines()) == 3
    assert {name: (out / name).stat().st_mtime_ns for name in files} == stamps
    with pytest.raises(ConfigError, match="steps=0"):
        run(SPEC, compose_verb(BatchSettings, {}, [*settings, "steps=0"]))
