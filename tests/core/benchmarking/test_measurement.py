"""The record of every benchmark: goes round through its file, replaces what it repeats, survives a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rectiflow.benchmarking.measurement import (
    Measurement,
    append_measurement,
    read_measurements,
    up_to_date,
    write_measurements,
)
from rectiflow.errors import DataError, StorageError


def one(nfe: float, quality: float, digest: str = "") -> Measurement:
    return Measurement(
        study="domains",
        cell={"domain": "images", "nfe": nfe},
        figures={"quality": quality, "lost": math.nan},
        intervals={"quality": (quality - 1, quality + 1)},
        floor={"quality": 1.0},
        command=f"rectiflow bench domains nfe={nfe:g}",
        count=8,
        digest=digest,
        facts={"title": "quality"},
    )


def test_measurements_go_round_with_machine_load_and_every_field(tmp_path: Path) -> None:
    path = tmp_path / "new" / "measurements.jsonl"
    kept = append_measurement(path, one(2.0, 3.5))
    (found,) = read_measurements(path)
    assert found.figures.pop("lost") != found.figures.get("quality")  # NaN is null in the file and NaN again after it
    assert found.figures == {"quality": 3.5}
    assert math.isnan(kept.figures["lost"])
    assert (found.intervals, found.floor, found.command) == (kept.intervals, kept.floor, kept.command)
    assert {"cpu", "torch", "python", "commit"} <= found.machine.keys()
    assert "load" not in found.machine
    assert found.load is not None
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert "NaN" not in path.read_text()


def test_the_machine_is_written_once_and_versions_of_peers_make_another(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    append_measurement(path, one(1.0, 1.0))
    append_measurement(path, one(2.0, 1.0))
    peer = Measurement("domains", {"nfe": 4.0}, {}, "c", machine={"peers": {"torchcfm": "1.0.7"}})
    append_measurement(path, peer)
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["machine", "measurement", "measurement", "machine", "measurement"]
    assert read_measurements(path)[-1].machine["peers"] == {"torchcfm": "1.0.7"}


def test_a_later_measurement_of_a_cell_replaces_it_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for nfe, quality, digest in ((1.0, 5.0, "a"), (2.0, 3.0, "a"), (1.0, 4.0, "b")):
        append_measurement(path, one(nfe, quality, digest))
    found = read_measurements(path)
    assert [(entry.cell["nfe"], entry.figures["quality"]) for entry in found] == [(1.0, 4.0), (2.0, 3.0)]
    assert up_to_date(found, {"nfe": 1.0, "domain": "images"}, "b") is found[0]  # whatever the order of names
    assert up_to_date(found, {"nfe": 1.0, "domain": "images"}, "a") is None
    assert up_to_date(found, {"nfe": 8.0, "domain": "images"}, "b") is None


def test_a_line_that_a_kill_cut_is_taken_away_and_the_next_one_stands(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    append_measurement(path, one(1.0, 1.0))
    whole = path.read_bytes()
    append_measurement(path, one(2.0, 2.0))
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_measurements(path)) == 1
    append_measurement(path, one(4.0, 4.0))
    assert path.read_bytes().startswith(whole)
    assert [entry.cell["nfe"] for entry in read_measurements(path)] == [1.0, 4.0]


def test_stored_results_are_written_as_they_are_read(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for nfe in (1.0, 2.0):
        append_measurement(first, one(nfe, nfe))
    write_measurements(second, read_measurements(first))
    again = read_measurements(second)
    assert [entry.figures["quality"] for entry in again] == [1.0, 2.0]
    assert again[0].machine == read_measurements(first)[0].machine


@pytest.mark.parametrize(
    "line",
    ['{"kind": "row"}', '{"kind": "measurement", "machine": "unknown"}', '{"figures": {}}', '{"kind": "machine"}'],
)
def test_what_is_no_measurement_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl, record 1: not a measurement"):
        read_measurements(path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        append_measurement(tmp_path / "file" / "m.jsonl", one(1.0, 1.0))
