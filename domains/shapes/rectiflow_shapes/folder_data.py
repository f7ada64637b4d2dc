"""A folder of meshes as training data: kinds from its subfolders, captions from a table, a tenth held out by content."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.data import Splits
from rectiflow_shapes.isolating import Failure, isolated
from rectiflow_shapes.preparing import Folder, load, prepare_folder
from rectiflow_shapes.shape_data import MeasuredShape, ShapeData, assemble, measure
from rectiflow_shapes.signed_distance import Engine

CAPTIONS = "captions.csv"
"""A table in the folder with the columns file (relative to it) and caption."""
_VERSION = 2
_ENGINE: Engine = "winding"  # as prepared
_POINTS = 2048
_SECONDS, _MEGABYTES = 120.0, 4096


def folder(path: str, held: float, count: int) -> Splits:
    """Meshes of use below a folder, prepared once; the share `held` of them for validation, chosen by content, not by order.

    The kind of a shape is the first folder on its way ("mesh" for files beside one another), its caption that of captions.csv
    or "a <kind>".

    Args:
        path: the folder.
        held: between 0 and 1.
        count: take so many at most, evenly over the folder; 0 takes all.

    Raises:
        ConfigError: no such folder, no meshes in it, a share that is not between 0 and 1, or a bad table.
        DataError: less than two shapes of a split are of use.
        StorageError: the cache cannot be written.
    """
    if not 0 < held < 1 or count < 0:
        raise ConfigError(f"data.held={held}, data.count={count}: a share between 0 and 1, and a number from 0 on")
    root = Path(path).expanduser()
    prepared = prepare_folder(root, points=_POINTS)
    print(f"{root}: {prepared}")
    arrays = _measured(prepared)
    files = list(arrays)
    if count and count < len(files):
        files = [files[place] for place in np.linspace(0, len(files) - 1, count).round().astype(int)]
    # The names of the prepared files are hashes of what was in the meshes.
    chosen = {file: int(prepared.shapes[file].stem[-8:], 16) / 16**8 < held for file in files}
    parts = ([file for file in files if not chosen[file]], [file for file in files if chosen[file]])
    if min(map(len, parts)) < 2:
        raise DataError(
            f"{root} gives {len(parts[0])} shapes to train on and {len(parts[1])} held out; each needs 2 or more: "
            "add meshes, or set data.held"
        )
    kinds = tuple(sorted({_kind(root, file) for file in files}))
    captions = _captions(root)
    train, validation = (_shapes(root, prepared, part, kinds, captions, arrays) for part in parts)
    return Splits(train, validation)


def _shapes(
    root: Path,
    prepared: Folder,
    files: list[Path],
    kinds: tuple[str, ...],
    captions: dict[str, str],
    arrays: dict[Path, MeasuredShape],
) -> ShapeData:
    names = [_kind(root, file) for file in files]
    told = [
        captions.get(file.relative_to(root).as_posix(), f"a {name}") for file, name in zip(files, names, strict=True)
    ]
    stacked: dict[str, NDArray[np.float16]] = {
        name: np.stack([arrays[file][name] for file in files]) for name in arrays[files[0]]
    }
    key = f"folder-{_VERSION}-{_digest([prepared.shapes[file].stem for file in files])}"
    labels = [kinds.index(name) for name in names]

    def mesh(number: int) -> trimesh.Trimesh:
        return load(prepared.shapes[files[number]]).mesh

    return assemble(key, kinds, labels, [{} for _ in files], told, stacked, mesh, (), _ENGINE)


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _kind(root: Path, file: Path) -> str:
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else "mesh"


def _captions(root: Path) -> dict[str, str]:
    table = root / CAPTIONS
    if not table.is_file():
        return {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            return {row["file"]: row["caption"] for row in csv.DictReader(stream)}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{table} cannot be read: {error}; it needs the columns file and caption, in UTF-8"
        ) from error


def _measured(prepared: Folder) -> dict[Path, MeasuredShape]:
    """The arrays of every prepared shape, out of the cache or found now by all cores."""
    cache = cache_folder("shapes", f"measured-{_VERSION}")
    wanted = {file: cache / source.name for file, source in prepared.shapes.items()}
    todo = [file for file, target in wanted.items() if not target.is_file()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pairs = [(prepared.shapes[file], wanted[file]) for file in todo]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring meshes", total=len(todo))
        count = min(cores, max(len(todo), 1))
        for number, result in isolated(_measure, pairs, processes=count, seconds=_SECONDS, megabytes=_MEGABYTES):
            if isinstance(result, Failure):
                raise DataError(f"{todo[number]} cannot be measured: {result.reason}; take it out of the folder")
            progress.advance(bar)
    return {file: dict(np.load(target)) for file, target in wanted.items()}


def _measure(pair: tuple[Path, Path]) -> None:
    source, target = pair
    generator = np.random.default_rng(int(source.stem[:15], 16))
    unfinished = target.with_name(f".{os.getpid()}-{target.name}")
    with unfinished.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **measure(load(source).mesh, generator, _ENGINE))
    unfinished.replace(target)
