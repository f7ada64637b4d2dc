"""Solids out of meshes that are none: the least change that gives a closed surface, and what it was."""

from __future__ import annotations

from typing import Literal

import igl
import numpy as np
import torch
import trimesh
from manifold3d import Manifold, OpType
from numpy.typing import NDArray

from rectiflow.errors import DataError
from rectiflow_shapes.extraction import grid_points, surface
from rectiflow_shapes.meshes import body_labels, body_volumes, from_manifold, is_solid, to_manifold

LONGEST_SIDE = 1.8
"""Longest side of the bounding box of every shape, centred in [-1, 1]^3."""
VOXELS = 80
Repair = Literal["as it is", "turned", "holes filled", "pieces united", "rebuilt", "rebuilt with thickness"]

_DUST = 0.005
_KEPT, _GROUNDED = 0.95, 0.75
_PROBES = 2000
_WALLS, _BESIDE, _GROWTHS = 0.01, 1e-3, (1e-5, 1e-4, 1e-3)
_MOST_PIECES = 2000


def normalise(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh moved and scaled, its box centred at 0 with a longest side of 1.8."""
    low, high = mesh.bounds
    scale = LONGEST_SIDE / (high - low).max()
    return trimesh.Trimesh((mesh.vertices - (low + high) / 2) * scale, mesh.faces, process=False)


def repair(mesh: trimesh.Trimesh, voxels: int = VOXELS) -> tuple[trimesh.Trimesh, Repair]:
    """A closed, outward facing mesh of the same shape in [-0.9, 0.9]^3, and what was done.

    In turn: nothing ("as it is"); faces turned to agree ("turned"); holes of three or four edges filled; closed pieces that
    overlap or touch united, and those inside out taken away ("pieces united"); else a new surface where the winding number of
    the old one is 1/2, on a grid of `voxels` or twice as many a side ("rebuilt"), and if that loses more than a twentieth of the
    old surface, or a quarter of it lies where no surface was, around everything nearer to it than a cell ("rebuilt with
    thickness").

    Raises:
        DataError: nothing solid came out.
    """
    given = normalise(mesh)
    closed, how = _closed(given)
    if is_solid(closed):
        solid, changed = _united(closed)
        if solid is not None and _covered_once(solid):
            return normalise(solid), "pieces united" if changed else how
    # Turning helps a surface whose faces disagree, and harms a soup of faces that agree but share no edge: both are tried.
    return _rebuilt([given, closed], voxels)


def _closed(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, Repair]:
    if is_solid(mesh):
        return mesh, "as it is"
    turned = mesh.copy()
    trimesh.repair.fix_normals(turned, multibody=True)  # type: ignore[no-untyped-call]
    if is_solid(turned):
        return turned, "turned"
    trimesh.repair.fill_holes(turned)
    if turned.is_watertight:
        trimesh.repair.fix_normals(turned, multibody=True)  # type: ignore[no-untyped-call]
    return turned, "holes filled"


def _united(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh | None, bool]:
    """All pieces as one solid, and whether that changed anything; None where a piece is no manifold."""
    labels, volumes = body_labels(mesh), body_volumes(mesh)
    if len(volumes) == 1:
        return mesh, False
    if len(volumes) > _MOST_PIECES:
        return None, False
    pieces = []
    for label in range(len(volumes)):
        piece = trimesh.Trimesh(mesh.vertices, mesh.faces[labels == label], process=False)
        piece.remove_unreferenced_vertices()
        pieces.append(piece)
    solid = _union(pieces, volumes)
    if solid is None:
        return None, False
    walls = _buried(mesh) > _WALLS
    if not walls and abs(body_volumes(solid).sum() - volumes.sum()) < 1e-4 * np.abs(volumes).sum():
        return mesh, False
    # Pieces that touch have gaps of rounding between them, which a union keeps; pieces a little larger overlap.
    for growth in _GROWTHS if walls else ():
        if _buried(solid) <= _WALLS:
            break
        solid = _union(pieces, volumes, growth) or solid
    return (solid, True) if is_solid(solid) else (None, False)


def _union(pieces: list[trimesh.Trimesh], volumes: NDArray[np.float64], growth: float = 0.0) -> trimesh.Trimesh | None:
    """Pieces of positive volume as one solid without those of negative volume, each larger by a share; None for nothing."""
    added: list[Manifold] = []
    removed: list[Manifold] = []
    for piece, volume in zip(pieces, volumes, strict=True):
        middle = piece.vertices.mean(axis=0)
        grown = trimesh.Trimesh(middle + (1 + growth) * (piece.vertices - middle), piece.faces, process=False)
        if volume < 0:
            grown.invert()
        part = to_manifold(grown)
        if part is None:
            return None
        (added if volume > 0 else removed).append(part)
    united: Manifold = Manifold.batch_boolean(added, OpType.Add) if added else Manifold()
    if removed:
        united = united - Manifold.batch_boolean(removed, OpType.Add)
    return None if united.is_empty() else from_manifold(united)


def _buried(mesh: trimesh.Trimesh) -> float:
    """Share of a surface with the inside of the solid on both of its sides: walls between pieces that touch."""
    probes, faces = trimesh.sample.sample_surface(mesh, _PROBES, seed=0)
    return float((np.abs(_winding(mesh, probes + _BESIDE * mesh.face_normals[faces])) > 0.5).mean())


def _covered_once(mesh: trimesh.Trimesh) -> bool:
    """Whether the surface winds once around its inside and never around the rest: it does not pass through itself."""
    low, high = mesh.bounds
    # Fixed probes of low discrepancy: the judgement of a file never changes.
    steps = 1 / 1.2207440846057596 ** np.arange(1, 4)
    probes = low + (0.5 + np.arange(1, _PROBES + 1)[:, None] * steps) % 1 * (high - low)
    winding = _winding(mesh, probes)
    wrong = np.minimum(np.abs(winding), np.abs(winding - 1)) > 0.3
    return bool(wrong.mean() <= 0.001)


def _rebuilt(candidates: list[trimesh.Trimesh], voxels: int) -> tuple[trimesh.Trimesh, Repair]:
    grounded = False
    for resolution in (voxels, 2 * voxels):
        cell = 2 / (resolution - 1)
        for mesh in candidates:
            distance, inside = _distances(mesh, resolution)
            solid = _without_dust(surface(torch.from_numpy(np.where(inside, -distance, distance))))
            if len(solid.faces) and _near(solid, mesh, cell) >= _GROUNDED:
                grounded = True
                if _near(mesh, solid, cell) >= _KEPT:
                    return normalise(solid), "rebuilt"
        if not grounded:
            break
    distance, inside = _distances(candidates[0], voxels)
    # Where most of that surface closed gaps, the winding number tells nothing of an inside.
    signed = np.where(inside & grounded, -distance, distance)
    solid = _without_dust(surface(torch.from_numpy(np.minimum(signed, distance - 0.9 * 2 / (voxels - 1)))))
    if len(solid.faces) == 0 or not is_solid(solid):
        faces = len(candidates[0].faces)
        raise DataError(
            f"no solid came out of {faces} faces, nor out of a grid of {voxels} around them; close the surface"
        )
    return normalise(solid), "rebuilt with thickness"


def _distances(mesh: trimesh.Trimesh, voxels: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Unsigned distance and inside (R, R, R) on the grid; both coarse where the surface is far."""
    vertices, faces = np.ascontiguousarray(mesh.vertices, dtype=np.float64), np.ascontiguousarray(mesh.faces, np.int64)
    points = grid_points(voxels).double().numpy()
    block = 4
    blocks = -(-voxels // block)
    middle = np.minimum((np.arange(blocks) + 0.5) * block - 0.5, voxels - 1) * 2 / (voxels - 1) - 1
    centres = np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), axis=-1).reshape(-1, 3)
    coarse = np.sqrt(igl.point_mesh_squared_distance(centres, vertices, faces)[0]).reshape((blocks,) * 3)
    around = _winding(mesh, centres).reshape((blocks,) * 3)
    spread = np.ix_(*[np.arange(voxels) // block] * 3)
    distance, winding = coarse[spread], around[spread]
    # A block that the surface may enter, or come within two cells of, is measured node by node.
    near = distance < (2 + block * np.sqrt(3) / 2) * 2 / (voxels - 1)
    chosen = np.ascontiguousarray(points[near])
    distance[near] = np.sqrt(igl.point_mesh_squared_distance(chosen, vertices, faces)[0])
    winding[near] = _winding(mesh, chosen)
    return distance, np.abs(winding) > 0.5


def _winding(mesh: trimesh.Trimesh, points: NDArray[np.float64]) -> NDArray[np.float64]:
    vertices, faces = np.ascontiguousarray(mesh.vertices, dtype=np.float64), np.ascontiguousarray(mesh.faces, np.int64)
    winding: NDArray[np.float64] = igl.fast_winding_number(vertices, faces, np.ascontiguousarray(points))
    return winding


def _near(one: trimesh.Trimesh, other: trimesh.Trimesh, cell: float) -> float:
    """Share of one surface within one and a half cells of the other."""
    probes = trimesh.sample.sample_surface(one, _PROBES, seed=0)[0]
    vertices, faces = (
        np.ascontiguousarray(other.vertices, dtype=np.float64),
        np.ascontiguousarray(other.faces, np.int64),
    )
    squares = igl.point_mesh_squared_distance(np.ascontiguousarray(probes), vertices, faces)[0]
    return float((np.sqrt(squares) < 1.5 * cell).mean())


def _without_dust(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    if len(mesh.faces) == 0:
        return mesh
    volumes = body_volumes(mesh)
    large = np.abs(volumes) >= _DUST * np.abs(volumes).sum()
    kept = trimesh.Trimesh(mesh.vertices, mesh.faces[large[body_labels(mesh)]], process=False)
    kept.remove_unreferenced_vertices()
    return kept
