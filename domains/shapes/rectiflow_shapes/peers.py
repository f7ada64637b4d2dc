"""Signed distances as other libraries measure them, for `rectiflow bench peers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from rectiflow.benchmarking.contest import OURS, Contest, largest_difference
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow_shapes.signed_distance import signed_distance

POINTS = 1000
MAJOR, MINOR = 0.6, 0.25


def distances(generator: torch.Generator) -> Contest:
    """Signed distances of 1000 points to a torus of 10 000 faces."""
    mesh = trimesh.creation.torus(MAJOR, MINOR, major_sections=100, minor_sections=50)
    points = 2 * torch.rand(POINTS, 3, generator=generator, dtype=torch.float64) - 1
    queries = points.numpy()
    makers: Makers[Callable[[], Tensor]] = {
        OURS: lambda: lambda: signed_distance(mesh, points),
        "libigl": lambda: _libigl(mesh, queries),
        "trimesh.proximity": lambda: _trimesh(mesh, queries),
        "pyvista": lambda: _pyvista(mesh, queries),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "domains",
        f"shapes: signed distances of {POINTS} points to {len(mesh.faces)} faces",
        runs,
        largest_difference,
        tolerance=1e-5,
        units=POINTS,
        unit="point",
        missing=missing,
    )


def _libigl(mesh: trimesh.Trimesh, queries: NDArray[Any]) -> Callable[[], Tensor]:
    import igl

    vertices = np.ascontiguousarray(mesh.vertices)
    faces = np.ascontiguousarray(mesh.faces, dtype=np.int64)
    mode = igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL
    return lambda: torch.from_numpy(igl.signed_distance(queries, vertices, faces, sign_type=mode)[0])


def _trimesh(mesh: trimesh.Trimesh, queries: NDArray[Any]) -> Callable[[], Tensor]:
    import rtree  # noqa: F401  trimesh needs it and asks for it only when it measures

    return lambda: torch.from_numpy(-trimesh.proximity.signed_distance(mesh, queries))  # type: ignore[no-untyped-call]


def _pyvista(mesh: trimesh.Trimesh, queries: NDArray[Any]) -> Callable[[], Tensor]:
    import pyvista

    surface = pyvista.wrap(mesh)

    def measure() -> Tensor:
        found = pyvista.PolyData(queries).compute_implicit_distance(surface)["implicit_distance"]
        return torch.from_numpy(np.asarray(found))

    return measure
