"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a silent loss.

A checkpoint is a folder `checkpoints/step-00001000/` with the files of `FILES` and `meta.json`, which records the size and
SHA-256 of each. It is written beside its place, flushed to the disk and renamed, so a folder of that name is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rectiflow.errors import CheckpointCorrupt, ConfigError, StorageError

FORMAT = 1
FILES = ("model.safetensors", "ema.safetensors", "state.pt", "config.yaml")
STEP_NAME = re.compile(r"step-(\d{8,})")

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What a checkpoint holds: weights, averaged weights, plain resume state, the resolved config and its record."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: dict[str, Any]
    config: str
    meta: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint under `folder`/checkpoints, read it back, and only then drop all but the last `keep`.

    Checkpoints of later steps go too: they belong to a run that this one has replaced.

    Raises:
        StorageError: nothing was written (no permission, no space, a size limit); earlier checkpoints are as before.
    """
    root = folder / "checkpoints"
    final = root / f"step-{checkpoint.step:08d}"
    staged = root / f"{final.name}.tmp-{os.getpid()}"
    payloads = _serialise(checkpoint)
    needed = sum(len(payload) for payload in payloads.values())
    try:
        staged.mkdir(parents=True)
        for name, payload in payloads.items():
            _write_file(staged / name, payload)
        _sync_folder(staged)
        _replace_folder(staged, final)
        _write_latest(root, final.name)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise storage_error(final, error, needed) from error
    read_files(final, FILES)
    _prune(root, checkpoint.step, keep)
    return final


def storage_error(path: Path, error: OSError, needed: int) -> StorageError:
    """The error to show when `path` could not be written: what was needed and what is free."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    return StorageError(
        f"cannot write {path}: {error.strerror or error} ({needed} bytes needed, {free} bytes free there); "
        "free some space, lift the limit or choose another folder, then start again to resume."
    )


def clean_checkpoints(folder: Path) -> None:
    """Remove what killed writers left behind; call it only while holding the run's lock."""
    root = folder / "checkpoints"
    if root.is_dir():
        for path in root.iterdir():
            if ".tmp" in path.name:
                _remove(path)


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that verifies, or None where there is none; each one passed over is logged.

    Raises:
        CheckpointCorrupt: there are checkpoints, and none verifies.
    """
    return _newest(folder, _read_checkpoint) if checkpoint_folders(folder) else None


def load_weights(folder: Path | str, which: str = "ema") -> dict[str, Tensor]:
    """Weights, on the CPU, of a run folder (its newest checkpoint that verifies) or of one checkpoint's folder.

    `which` is "ema" for the average or "model" for the raw weights.

    Raises:
        ConfigError: no such choice, or no checkpoint there.
        CheckpointCorrupt: there are checkpoints, and none verifies.
    """
    if which not in ("ema", "model"):
        raise ConfigError(f"which={which!r} is not allowed: it must be 'ema' or 'model'.")
    folder = Path(folder)
    name = f"{which}.safetensors"

    def read(path: Path) -> dict[str, Tensor]:
        return _tensors(path / name, read_files(path, (name,))[1][name])

    if (folder / "meta.json").exists() or STEP_NAME.fullmatch(folder.name):
        return read(folder)
    if not checkpoint_folders(folder):
        raise ConfigError(f"no checkpoint under {folder}: it must be the folder of a trained run; train one first.")
    return _newest(folder, read)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first, not yet verified."""
    root = folder / "checkpoints"
    found = [path for path in root.iterdir() if STEP_NAME.fullmatch(path.name)] if root.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read_files(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The record of a checkpoint, and the named files' bytes after size and SHA-256 were compared with it.

    Raises:
        CheckpointCorrupt: a file is missing or is not what was written.
    """
    meta = _read_meta(path / "meta.json")
    payloads = {}
    for name in names:
        record = meta["files"].get(name)
        if record is None:
            raise _corrupt(path / name, "meta.json does not list it")
        try:
            payload = (path / name).read_bytes()
        except OSError as error:
            raise _corrupt(path / name, f"it cannot be read: {error.strerror}") from error
        if len(payload) != record["bytes"]:
            raise _corrupt(path / name, f"it has {len(payload)} bytes, {record['bytes']} were written")
        if hashlib.sha256(payload).hexdigest() != record["sha256"]:
            raise _corrupt(path / name, "its SHA-256 is not the one that was written")
        payloads[name] = payload
    return meta, payloads


def _newest(folder: Path, read: Callable[[Path], T]) -> T:
    failures: list[CheckpointCorrupt] = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            result = read(path)
        except CheckpointCorrupt as error:
            logger.warning("WARNING: passing over %s: %s", path.name, error)
            failures.append(error)
            continue
        if failures:
            logger.warning("WARNING: falling back to %s", path)
        return result
    raise failures[0]


def _read_checkpoint(path: Path) -> Checkpoint:
    meta, payloads = read_files(path, FILES)
    return Checkpoint(
        step=int(meta["step"]),
        model=_tensors(path / "model.safetensors", payloads["model.safetensors"]),
        ema=_tensors(path / "ema.safetensors", payloads["ema.safetensors"]),
        state=_plain_state(path / "state.pt", payloads["state.pt"]),
        config=payloads["config.yaml"].decode(),
        meta=meta,
    )


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        meta = json.loads(text)
    except (OSError, ValueError) as error:
        raise _corrupt(path, f"it cannot be read: {error}") from error
    digest = meta.pop("digest", None) if isinstance(meta, dict) else None
    if digest is None or text != _meta_text(meta):
        raise _corrupt(path, "it is not what was written")
    if meta["format"] != FORMAT:
        raise _corrupt(path, f"its format is {meta['format']}, this version reads {FORMAT}")
    return dict(meta)


def _meta_text(meta: dict[str, Any]) -> str:
    plain = json.dumps(meta, indent=1, sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps({**meta, "digest": digest}, indent=1, sort_keys=True) + "\n"


def _corrupt(path: Path, reason: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(
        f"checkpoint file {path} is unusable: {reason}; remove {path.parent} to use an earlier one, or train again."
    )


def _tensors(path: Path, payload: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(payload)
    except SafetensorError as error:
        raise _corrupt(path, f"it is not a safetensors file ({error})") from error


def _plain_state(path: Path, payload: bytes) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _corrupt(path, f"weights_only=True refuses it ({reason})") from error
    if not isinstance(state, dict):
        raise _corrupt(path, f"it holds a {type(state).__name__}, a dict was written")
    return state


def _serialise(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Contents of every file, `meta.json` last."""
    buffer = io.BytesIO()
    torch.save(checkpoint.state, buffer)
    payloads = {
        "model.safetensors": _safetensors(checkpoint.model),
        "ema.safetensors": _safetensors(checkpoint.ema),
        "state.pt": buffer.getvalue(),
        "config.yaml": checkpoint.config.encode(),
    }
    record = {
        name: {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        for name, payload in payloads.items()
    }
    meta = {**checkpoint.meta, "format": FORMAT, "step": checkpoint.step, "files": record}
    return {**payloads, "meta.json": _meta_text(meta).encode()}


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    # Tied and strided tensors are refused by the format, so each is written out in full.
    return safetensors.torch.save(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    )


def _write_file(path: Path, payload: bytes) -> None:
    with path.open("xb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_folder(staged: Path, final: Path) -> None:
    """Put a folder in place, moving one of the same step (a corrupt one, which resuming passed over) out of the way."""
    if final.exists():
        aside = final.with_name(f"{final.name}.tmp-replaced-{os.getpid()}")
        os.replace(final, aside)
        os.replace(staged, final)
        _remove(aside)
    else:
        os.replace(staged, final)
    _sync_folder(final.parent)


def _write_latest(root: Path, name: str) -> None:
    staged = root / f"latest.tmp-{os.getpid()}"
    staged.unlink(missing_ok=True)
    _write_file(staged, f"{name}\n".encode())
    os.replace(staged, root / "latest")
    _sync_folder(root)


def _prune(root: Path, step: int, keep: int) -> None:
    folders = checkpoint_folders(root.parent)
    current = [path for path in folders if int(path.name.removeprefix("step-")) <= step]
    for path in folders:
        if path not in current[-keep:]:
            _remove(path)


def _remove(path: Path) -> None:
    """Delete, and carry on if that fails: a leftover costs space, not correctness."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
