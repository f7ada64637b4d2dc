"""A shard: one safetensors file of equally long tensors, written all at once and read through the page cache."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow.training.checkpoint import storage_error

TEMPORARY = ".tmp-"
_CHECKSUM = "crc32"


class Entry(NamedTuple):
    """Shape, rows first, and dtype of one tensor of a shard."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to `path` with their checksum; the file appears complete or not at all.

    Raises:
        StorageError: the file could not be written.
    """
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(plain, metadata={_CHECKSUM: _checksum(plain)}))


def map_shard(path: Path, expected: Mapping[str, Entry]) -> dict[str, Tensor]:
    """The tensors of a shard, mapped from the disk: a row is read when it is touched.

    Raises:
        DataError: the file is missing, truncated, or holds other tensors than expected.
    """
    return _open(path, expected)[0]


def verify_shard(path: Path, expected: Mapping[str, Entry]) -> None:
    """Read a whole shard and compare it with the checksum that was written with it.

    Raises:
        DataError: see `map_shard`; or a byte has changed since.
    """
    tensors, checksum = _open(path, expected)
    if _checksum(tensors) != checksum:
        raise _unusable(path, "its checksum is not the one that was written")


def write_file(path: Path, payload: bytes) -> None:
    """Put a file in place by way of a flushed sibling, so that no reader ever sees a part of it.

    Raises:
        StorageError: no permission, no space, or a size limit; `path` is as before.
    """
    staged = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        with staged.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise storage_error(path, error, len(payload)) from error


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's entries in row order."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _open(path: Path, expected: Mapping[str, Entry]) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            checksum = (file.metadata() or {}).get(_CHECKSUM, "")
    except (OSError, SafetensorError) as error:
        raise _unusable(path, f"it cannot be read ({error})") from error
    found = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise _unusable(path, f"{name} is {_words(found.get(name))}, the index says {_words(expected.get(name))}")
    return tensors, checksum


def _words(entry: Entry | None) -> str:
    return "absent" if entry is None else f"{str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}"


def _unusable(path: Path, reason: str) -> DataError:
    return DataError(f"pair shard {path} is unusable: {reason}; remove this file and generate again to replace it.")


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    running = 0
    for name in sorted(tensors):
        running = zlib.crc32(raw_bytes(tensors[name]), running)
    return f"{running:08x}"
