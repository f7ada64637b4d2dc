"""Where shapes come from: the built-in solids, drawn and measured once by all cores and kept in the cache."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError
from rectiflow_shapes.shape_data import MeasuredShape, ShapeData, assemble, measure
from rectiflow_shapes.solids import Split, draw, family_kinds

_BLOCK = 25
_VERSION = 1


class Splits(NamedTuple):
    """Training and validation shapes."""

    train: ShapeData
    validation: ShapeData


def solids(family: str, count: int, held: int, seed: int) -> Splits:
    """Built-in solids: `count` to train on and `held` of the held-out combinations.

    Raises:
        ConfigError: an unknown family, or less than two shapes of a split.
        StorageError: the cache cannot be written.
    """
    if min(count, held) < 2:
        raise ConfigError(f"data.count={count}, data.held={held}: each must be at least 2")
    return Splits(_split(family, count, seed, "train"), _split(family, held, seed, "validation"))


def _split(family: str, count: int, seed: int, split: Split) -> ShapeData:
    kinds = family_kinds(family)
    key = f"{family}-{seed}-{split}-{_fingerprint(family)}"
    folder = cache_folder("shapes", "solids", key)
    arrays = _measured(folder, family, seed, split, count)
    drawn = [draw(family, index, seed, split) for index in range(count)]
    names = tuple(sorted({attribute.name for kind in kinds.values() for attribute in kind.attributes}))
    return assemble(
        f"{key}-{count}",
        tuple(kinds),
        [solid.label for solid in drawn],
        [solid.units for solid in drawn],
        [solid.caption for solid in drawn],
        arrays,
        lambda index: drawn[index].mesh,
        names,
    )


def _fingerprint(family: str) -> str:
    """A checksum of one solid a kind, so that a change of the generator never meets shapes of the old one."""
    digest = hashlib.sha256(f"{_VERSION} {_BLOCK}".encode())
    for index in range(len(family_kinds(family))):
        digest.update(np.round(draw(family, index).mesh.vertices, 9).tobytes())
    return digest.hexdigest()[:12]


def _measured(folder: Path, family: str, seed: int, split: Split, count: int) -> dict[str, NDArray[np.float16]]:
    """Arrays of the first `count` solids, in blocks: those that the cache lacks are made by all cores."""
    blocks = range(-(-count // _BLOCK))
    missing = [block for block in blocks if not (folder / f"{block:05d}.npz").is_file()]
    if missing:
        work = partial(_make_block, folder, family, seed, split)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"measuring {family} solids ({split})", total=len(missing))
            for _ in _spread(work, missing):
                progress.advance(bar)
    parts = [dict(np.load(folder / f"{block:05d}.npz")) for block in blocks]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _spread(work: partial[None], items: list[int]) -> list[None]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1 or len(items) < 3:
        return list(map(work, items))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, items))


def _make_block(folder: Path, family: str, seed: int, split: Split, block: int) -> None:
    shapes = [_measured_solid(family, seed, split, index) for index in range(block * _BLOCK, (block + 1) * _BLOCK)]
    final = folder / f"{block:05d}.npz"
    partial_file = final.with_name(f"{final.name}.{os.getpid()}.partial")
    with partial_file.open("wb") as stream:
        arrays: dict[str, Any] = {name: np.stack([shape[name] for shape in shapes]) for name in shapes[0]}
        np.savez(stream, **arrays)
    partial_file.replace(final)


def _measured_solid(family: str, seed: int, split: Split, index: int) -> MeasuredShape:
    generator = np.random.default_rng([seed, index, split == "validation"])
    return measure(draw(family, index, seed, split).mesh, generator)
