"""A checkpoint is what was written, or it is refused by name and an earlier one is used."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rectiflow.errors import CheckpointCorrupt, ConfigError, StorageError
from rectiflow.training import checkpoint as module
from rectiflow.training.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    clean_checkpoints,
    load_latest,
    load_weights,
    save_checkpoint,
)

NAMES = ["model.safetensors", "ema.safetensors", "state.pt", "config.yaml", "meta.json"]


def snapshot(step: int, size: int = 4) -> Checkpoint:
    weights = {"w": torch.full((size,), float(step)), "n": torch.tensor(step)}
    averaged = {"w": torch.full((size,), step + 0.5), "n": torch.tensor(step)}
    state = {"moments": torch.arange(3.0), "list": [1, None, "x"], "betas": (0.9, 0.99)}
    return Checkpoint(step, weights, averaged, state, f"steps: {step}\n", {"world_size": 1, "git": ""})


def saved(folder: Path, *steps: int, keep: int = 9) -> list[Path]:
    return [save_checkpoint(folder, snapshot(step), keep) for step in steps]


def flip(path: Path, position: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 4
    path.write_bytes(bytes(content))


def newest(folder: Path) -> Checkpoint:
    found = load_latest(folder)
    assert found is not None
    return found


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)[0]
    assert path == tmp_path / "checkpoints" / "step-00000003"
    assert sorted(entry.name for entry in path.iterdir()) == sorted(NAMES)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000003\n"
    found, wanted = newest(tmp_path), snapshot(3)
    assert (found.step, found.config) == (3, wanted.config)
    assert torch.equal(found.model["w"], wanted.model["w"])
    assert torch.equal(found.ema["w"], wanted.ema["w"])
    assert found.state["list"] == wanted.state["list"]
    assert torch.equal(found.state["moments"], wanted.state["moments"])
    record = json.loads((path / "meta.json").read_text())["files"]
    for name in NAMES[:-1]:
        content = (path / name).read_bytes()
        assert record[name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_tied_and_strided_weights_can_be_saved(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path, snapshot(1)._replace(model={"a": tied, "b": tied, "c": tied.T}), keep=1)
    model = newest(tmp_path).model
    assert torch.equal(model["b"], tied)
    assert torch.equal(model["c"], tied.T)


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [0, None, -1])
def test_one_flipped_bit_in_any_file_is_found_and_the_previous_checkpoint_used(
    tmp_path: Path, name: str, position: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    _, last = saved(tmp_path, 10, 20)
    flip(last / name, position)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path).step == 10
    assert str(last / name) in caplog.text
    assert "falling back" in caplog.text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: os.truncate(p, 5)])
def test_missing_empty_and_truncated_files_are_refused_by_name(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    path = saved(tmp_path, 10)[0]
    damage(path / name)
    with pytest.raises(CheckpointCorrupt, match=name):
        load_latest(tmp_path)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("name", "reason"), [("state.pt", "weights_only"), ("model.safetensors", "not a safetensors")])
@pytest.mark.parametrize("forged", [False, True])
def test_a_pickle_in_place_of_tensors_is_never_run(tmp_path: Path, name: str, reason: str, forged: bool) -> None:
    path = saved(tmp_path, 10)[0]
    trace = tmp_path / "executed"
    torch.save(Bomb(trace), path / name) if name == "state.pt" else (path / name).write_bytes(pickle.dumps(Bomb(trace)))
    if forged:  # an attacker writes a record that fits
        meta = json.loads((path / "meta.json").read_text())
        content = (path / name).read_bytes()
        meta["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        del meta["digest"]
        (path / "meta.json").write_text(module._meta_text(meta))
    with pytest.raises(CheckpointCorrupt, match=reason if forged else name):
        load_latest(tmp_path)
    with pytest.raises(CheckpointCorrupt, match=name):
        load_weights(tmp_path, "model") if name != "state.pt" else load_latest(tmp_path)
    assert not trace.exists()


def test_only_the_last_are_kept_and_later_ones_of_an_abandoned_run_go(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30, 40, keep=2)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000030", "step-00000040"]
    flip(tmp_path / "checkpoints" / "step-00000040" / "state.pt")
    assert newest(tmp_path).step == 30
    saved(tmp_path, 35, keep=2)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000030", "step-00000035"]


def test_a_corrupt_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    path = saved(tmp_path, 10, 20)[1]
    flip(path / "model.safetensors")
    saved(tmp_path, 20)
    assert newest(tmp_path).step == 20
    assert [entry.name for entry in path.parent.iterdir() if "tmp" in entry.name] == []


def test_nothing_is_dropped_before_the_new_checkpoint_has_been_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 10, keep=1)
    replace = module._replace_folder

    def damaging(staged: Path, final: Path) -> None:
        replace(staged, final)
        flip(final / "ema.safetensors")

    monkeypatch.setattr(module, "_replace_folder", damaging)
    with pytest.raises(CheckpointCorrupt, match="ema"):
        saved(tmp_path, 20, keep=1)
    assert newest(tmp_path).step == 10


def test_remains_of_killed_writers_are_removed_and_strangers_left(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    root = tmp_path / "checkpoints"
    (root / "step-00000020.tmp-99").mkdir()
    (root / "step-00000020.tmp-99" / "model.safetensors").write_bytes(b"half")
    (root / "latest.tmp-99").write_text("step")
    (root / "old-step-00000099").mkdir()
    clean_checkpoints(tmp_path)
    assert sorted(path.name for path in root.iterdir()) == ["latest", "old-step-00000099", "step-00000010"]
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000010"]


def untouched(folder: Path) -> None:
    assert newest(folder).step == 10
    assert [path.name for path in (folder / "checkpoints").iterdir() if "tmp" in path.name] == []
    assert (folder / "checkpoints" / "latest").read_text() == "step-00000010\n"


def test_a_size_limit_stops_the_write_and_spares_the_old_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StorageError, match=r"step-00000020.*File too large.*bytes needed") as caught:
            save_checkpoint(tmp_path, snapshot(20, size=1 << 19), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert int(str(caught.value).split("(")[1].split(" bytes needed")[0]) > 2 * 4 * (1 << 19)
    assert caught.value.exit_code == 3
    untouched(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_forbidden_disk_spares_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    saved(tmp_path, 10)

    def failing(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(StorageError, match=os.strerror(code)):
            saved(tmp_path, 20, keep=1)
    untouched(tmp_path)


def test_a_file_in_the_folders_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(StorageError, match="checkpoints"):
        saved(tmp_path, 10)


def test_weights_of_a_run_or_of_one_checkpoint(tmp_path: Path) -> None:
    first, last = saved(tmp_path, 10, 20)
    assert float(load_weights(tmp_path)["w"][0]) == 20.5
    assert float(load_weights(tmp_path, "model")["w"][0]) == 20.0
    assert float(load_weights(first)["w"][0]) == 10.5
    (last / "state.pt").unlink()
    assert float(load_weights(str(tmp_path))["w"][0]) == 20.5
    flip(last / "ema.safetensors", -1)
    assert float(load_weights(tmp_path)["w"][0]) == 10.5
    with pytest.raises(CheckpointCorrupt, match="ema"):
        load_weights(last)


def test_weights_of_nothing_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train one first"):
        load_weights(tmp_path)
    with pytest.raises(ConfigError, match="'raw'"):
        load_weights(tmp_path, "raw")


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMAT", 2)
    saved(tmp_path, 10)
    monkeypatch.undo()
    with pytest.raises(CheckpointCorrupt, match="format is 2"):
        load_latest(tmp_path)
