"""Tensors that take a while to find, kept in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import StorageError


def cached_tensors(name: str, find: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors under this name: from the cache if they are there intact, else found and kept.

    Raises:
        StorageError: the cache cannot be written.
    """
    path = cache_folder("shapes", "representations") / f"{name}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError:
            path.unlink()  # damaged: found again below
    tensors = {key: value.contiguous() for key, value in find().items()}
    partial = f"{path}.{os.getpid()}.partial"
    try:
        save_file(tensors, partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot keep {path}: {error}; the cache must be writable and have room") from error
    return tensors
