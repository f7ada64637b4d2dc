"""Tensors that take a while to find, kept in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rectiflow.errors import StorageError


def kept_tensors(path: Path, find: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file: read if it is there intact, else found and kept.

    Raises:
        StorageError: the file cannot be written.
    """
    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError:
            path.unlink()  # damaged: found again below
    tensors = {name: value.contiguous() for name, value in find().items()}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file(tensors, partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        raise StorageError(
            f"cannot keep {path}: {error}; "
            f"the cache must be writable and have {size / 1e6:.0f} MB free: point RECTIFLOW_CACHE elsewhere"
        ) from error
    return tensors
