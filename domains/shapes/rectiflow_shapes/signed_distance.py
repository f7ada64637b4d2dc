"""Signed distances to a mesh, negative inside, exact, by a choice of engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import igl
import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.extraction import grid_points

Float = NDArray[np.float64]
Engine = Literal["libigl", "winding"]


def signed_distance(mesh: trimesh.Trimesh, points: Tensor, engine: Engine = "libigl") -> Tensor:
    """Distance of points (..., 3) to the surface, negative inside: (...) of the points' dtype, on the CPU.

    Args:
        mesh: what to measure to; "libigl" wants it closed and consistently wound.
        points: finite, in the mesh's units.
        engine: "libigl": the sign from the pseudo-normal of the nearest feature (Baerentzen and Aanaes 2005), exact and fast;
            "winding": the sign from the generalised winding number (arXiv 1801.07753), for holes and overlapping pieces.

    Raises:
        ConfigError: an unknown engine, or points of another shape.
        DataError: a mesh without faces, or numbers that are not finite.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is unknown; allowed: {', '.join(ENGINES)}")
    if points.shape[-1:] != (3,):
        raise ConfigError(f"points have shape {tuple(points.shape)}; it must be (..., 3)")
    if len(mesh.faces) == 0:
        raise DataError("a mesh without faces has no distances; give one with a surface")
    queries = np.ascontiguousarray(points.detach().cpu().reshape(-1, 3).numpy(), dtype=np.float64)
    if not (np.isfinite(queries).all() and np.isfinite(mesh.vertices).all()):
        raise DataError("points or vertices are not finite; distances need finite numbers: clean them first")
    if len(queries) == 0:
        return torch.empty(points.shape[:-1], dtype=points.dtype)
    values = ENGINES[engine](mesh, queries)
    return torch.from_numpy(values).to(points.dtype).reshape(points.shape[:-1])


def sdf_grid(mesh: trimesh.Trimesh, resolution: int, engine: Engine = "libigl") -> Tensor:
    """Signed distances (R, R, R), float32, at the nodes of a grid over [-1, 1]^3 (see `grid_points`).

    Raises:
        ConfigError, DataError: as `grid_points` and `signed_distance`.
    """
    return signed_distance(mesh, grid_points(resolution), engine)


def _libigl(mesh: trimesh.Trimesh, points: Float) -> Float:
    vertices, faces = _arrays(mesh)
    values: Float = igl.signed_distance(points, vertices, faces, sign_type=igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL)[0]
    # The pseudo-normals of a sliver without area may be undefined; its winding number is not.
    unknown = ~np.isfinite(values)
    if unknown.any():
        values[unknown] = _winding(mesh, points[unknown])
    return values


def _winding(mesh: trimesh.Trimesh, points: Float) -> Float:
    # The engine's own winding mode scales the distance by the winding number, so sign and distance are asked for apart.
    vertices, faces = _arrays(mesh)
    squares = igl.point_mesh_squared_distance(points, vertices, faces)[0]
    inside = np.abs(igl.fast_winding_number(vertices, faces, points)) > 0.5
    values: Float = np.where(inside, -1.0, 1.0) * np.sqrt(squares)
    return values


def _arrays(mesh: trimesh.Trimesh) -> tuple[Float, NDArray[np.int64]]:
    return (
        np.ascontiguousarray(mesh.vertices, dtype=np.float64),
        np.ascontiguousarray(mesh.faces, dtype=np.int64),
    )


ENGINES: dict[str, Callable[[trimesh.Trimesh, Float], Float]] = {
    "libigl": _libigl,
    "winding": _winding,
}
