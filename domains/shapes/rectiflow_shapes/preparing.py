"""A folder of meshes to exact signed distances: read, repaired or rejected with a reason, normalised, measured, cached."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow.fetch import sha256_of
from rectiflow_shapes.isolating import Failure, isolated
from rectiflow_shapes.reading import READABLE, read_mesh
from rectiflow_shapes.repairing import Repair, repair
from rectiflow_shapes.signed_distance import signed_distance

NEAR = (0.02, 0.08)
"""Standard deviations of the near points around the surface, half of them each."""
_VERSION = 2


@dataclass(frozen=True)
class Prepared:
    """One shape in [-1, 1]^3, its longest side 1.8, with points of known signed distance; float32.

    Attributes:
        vertices, faces: (V, 3) and (F, 3) int64, of the repaired mesh: closed, facing outwards.
        surface, normals: (N, 3), spread evenly over the surface.
        near, near_sdf: (N, 3) and (N,), around the surface (`NEAR`).
        volume, volume_sdf: (N // 3, 3) and (N // 3,), spread evenly over the box.
        repair: what was done to the mesh.
    """

    vertices: Tensor
    faces: Tensor
    surface: Tensor
    normals: Tensor
    near: Tensor
    near_sdf: Tensor
    volume: Tensor
    volume_sdf: Tensor
    repair: Repair

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The repaired mesh."""
        return trimesh.Trimesh(self.vertices.double().numpy(), self.faces.numpy(), process=False)


@dataclass(frozen=True)
class Folder:
    """What became of the meshes of a folder.

    Attributes:
        shapes: path of each mesh that is of use -> its file of points, in the order of the paths.
        rejected: path of each other -> the reason.
        repairs: how many of the first needed what.
    """

    shapes: dict[Path, Path]
    rejected: dict[Path, str]
    repairs: dict[str, int]

    def __str__(self) -> str:
        told = ", ".join(f"{count} {how}" for how, count in self.repairs.items())
        return f"{len(self.shapes)} meshes of use ({told or 'none'}), {len(self.rejected)} rejected"


def prepare(mesh: trimesh.Trimesh, generator: torch.Generator, points: int = 8192) -> Prepared:
    """Repair, normalise and measure one mesh.

    Signs are told by winding: the pseudo-normals of a closed surface that folds over or runs through itself point inwards in
    places, and give the same signs everywhere else.

    Args:
        mesh: triangles with finite coordinates, of any size and place.
        generator: where the points come from.
        points: on the surface; as many are near it, and a third in the box.

    Raises:
        ConfigError: less than 4 points.
        DataError: see `repair`.
    """
    if points < 4:
        raise ConfigError(f"points is {points}; a shape needs 4 or more, thousands to be of use")
    solid, how = repair(mesh)
    surface, normals = sample_surface(solid, points, generator)
    spread = torch.tensor(NEAR).repeat_interleave(-(-points // 2))[:points, None]
    near = surface + spread * torch.randn(points, 3, generator=generator)
    volume = 2 * torch.rand(points // 3, 3, generator=generator) - 1
    return Prepared(
        vertices=torch.from_numpy(np.asarray(solid.vertices, dtype=np.float32)),
        faces=torch.from_numpy(np.asarray(solid.faces, dtype=np.int64)),
        surface=surface,
        normals=normals,
        near=near,
        near_sdf=signed_distance(solid, near, "winding"),
        volume=volume,
        volume_sdf=signed_distance(solid, volume, "winding"),
        repair=how,
    )


def sample_surface(mesh: trimesh.Trimesh, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points and normals (count, 3), float32, spread evenly over the area of a mesh.

    Raises:
        DataError: a mesh without area.
    """
    corners = torch.from_numpy(np.asarray(mesh.vertices)[mesh.faces])
    crossed = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = crossed.norm(dim=1)
    if len(areas) == 0 or not areas.sum() > 0:
        raise DataError(f"a mesh of {len(areas)} faces has no area to sample; give one with a surface")
    ends = areas.cumsum(0)
    face = torch.searchsorted(ends, torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1])
    face = face.clamp(max=len(areas) - 1)
    u, v = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    # A uniform point of a triangle: the square root undoes the narrowing towards the first corner.
    weights = torch.stack([1 - u.sqrt(), u.sqrt() * (1 - v), u.sqrt() * v], dim=1)
    return (weights * corners[face]).sum(dim=1).float(), (crossed / areas.clamp(min=1e-300)[:, None])[face].float()


def save(prepared: Prepared, path: Path) -> None:
    """Write a prepared shape as .npz, in one step.

    Raises:
        StorageError: the file cannot be written.
    """
    arrays = {item.name: getattr(prepared, item.name) for item in fields(prepared) if item.name != "repair"}
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with unfinished.open("wb") as stream:
            np.savez(stream, allow_pickle=False, repair=prepared.repair, **{k: v.numpy() for k, v in arrays.items()})
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free some space, or move the cache"
        ) from error


def load(path: Path) -> Prepared:
    """Read a prepared shape.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {item.name: stored[item.name] for item in fields(Prepared)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}; delete it and prepare again") from error
    how = str(arrays.pop("repair"))
    return Prepared(**{name: torch.from_numpy(value) for name, value in arrays.items()}, repair=how)  # type: ignore[arg-type]


def meshes_of(folder: Path) -> list[Path]:
    """All files below a folder whose name ends as a mesh's does, in order.

    Raises:
        ConfigError: no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"folder {folder} does not exist; name a folder of {', '.join(READABLE)} files")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE and path.is_file())
    if not found:
        raise ConfigError(f"folder {folder} holds no mesh; files must end in {', '.join(READABLE)}")
    return found


def prepare_folder(
    folder: Path,
    *,
    points: int = 8192,
    processes: int | None = None,
    seconds: float = 120.0,
    megabytes: int = 4096,
) -> Folder:
    """Prepare every mesh below a folder, those of an earlier run out of the cache; the same points whatever the order.

    A mesh that cannot be used, crashes its process, or takes more than `seconds` or `megabytes`, is rejected with the reason,
    and the run goes on.

    Args:
        folder: searched with everything below it.
        points: see `prepare`.
        processes: as many as cores by default.
        seconds: for one mesh.
        megabytes: for one process, beyond what the libraries take.

    Raises:
        ConfigError: no meshes there, or limits that are not positive.
        StorageError: the cache cannot be written.
    """
    paths = meshes_of(folder)
    cache = cache_folder("shapes", f"prepared-{_VERSION}-{points}")
    outcomes: dict[Path, Path | str] = {}
    for path in paths:
        known = _known(path, cache)
        if known is not None:
            outcomes[path] = known
    todo = [path for path in paths if path not in outcomes]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"preparing {folder.name}", total=len(paths), completed=len(outcomes))
        work = partial(_prepare_file, cache=cache, points=points)
        count = min(processes or cores, max(len(todo), 1))
        for number, result in isolated(work, todo, processes=count, seconds=seconds, megabytes=megabytes):
            outcomes[todo[number]] = result.reason if isinstance(result, Failure) else result
            progress.advance(bar)
    shapes = {path: found for path in paths if isinstance(found := outcomes[path], Path)}
    rejected = {path: found for path in paths if isinstance(found := outcomes[path], str)}
    repairs = Counter(_repair_of(shape) for shape in shapes.values())
    return Folder(shapes, rejected, dict(repairs.most_common()))


def _repair_of(path: Path) -> str:
    with np.load(path, allow_pickle=False) as stored:
        return str(stored["repair"])


def _key(path: Path) -> str:
    return hashlib.sha256(f"{path.suffix.lower()} {sha256_of(path)}".encode()).hexdigest()[:32]


def _known(path: Path, cache: Path) -> Path | str | None:
    """What an earlier run made of a file, or None."""
    try:
        key = _key(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"
    if (cache / f"{key}.npz").is_file():
        return cache / f"{key}.npz"
    refusal = cache / f"{key}.json"
    return str(json.loads(refusal.read_bytes())["reason"]) if refusal.is_file() else None


def _prepare_file(path: Path, cache: Path, points: int) -> Path | str:
    """One file's points, or why it has none; either is kept."""
    key = _key(path)
    generator = torch.Generator().manual_seed(int(key[:15], 16))
    try:
        prepared = prepare(read_mesh(path), generator, points)
    except DataError as error:
        (cache / f"{key}.json").write_text(json.dumps({"reason": str(error)}), encoding="utf-8")
        return str(error)
    save(prepared, cache / f"{key}.npz")
    return cache / f"{key}.npz"
