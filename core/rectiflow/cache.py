"""Where downloaded data sets and trained metric networks are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from rectiflow.errors import StorageError

VARIABLE = "RECTIFLOW_CACHE"


def cache_folder(*parts: str) -> Path:
    """Return the folder `parts` below the cache, made if it is missing.

    The cache is the folder that the environment variable RECTIFLOW_CACHE names, else the user's cache folder of the
    operating system.

    Raises:
        StorageError: the folder cannot be made or written to.
    """
    chosen = os.environ.get(VARIABLE)
    root = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("rectiflow", appauthor=False))
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the cache folder {folder}: {error.strerror}; "
            f"it must be a writable folder: point {VARIABLE} at one"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"cannot write to the cache folder {folder}: no permission; it must be writable: point {VARIABLE} elsewhere"
        )
    return folder
