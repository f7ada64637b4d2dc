"""Whether a mesh is a solid, and meshes to files that other programs open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from manifold3d import Error, Manifold, Mesh
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from rectiflow.errors import ConfigError, DataError, StorageError

WRITABLE = (".glb", ".obj", ".ply", ".stl")


@dataclass(frozen=True)
class Report:
    """What kind of surface a mesh is.

    Attributes:
        is_volume: closed, consistently wound, facing outwards.
        bodies: pieces that share no edge.
        volume: enclosed, in cubic units of the mesh; cavities count negative.
        largest_share: volume of the largest piece over that of all, each without its sign.
        euler: vertices - edges + faces.
        valid: a solid of one body, but for dust: is_volume, largest_share >= 0.95 and 0.01 < volume < 8.
    """

    is_volume: bool
    bodies: int
    volume: float
    largest_share: float
    euler: int
    valid: bool


def inspect(mesh: trimesh.Trimesh) -> Report:
    """Judge a mesh in [-1, 1]^3; one without faces is not valid.

    A shell inside a shell is watertight and has one body too many: it is the share of the largest that tells.
    """
    if len(mesh.faces) == 0:
        return Report(False, 0, 0.0, 0.0, 0, False)
    volumes = body_volumes(mesh)
    total, whole = float(volumes.sum()), float(np.abs(volumes).sum())
    share = float(np.abs(volumes).max()) / whole if whole > 0 else 0.0
    solid = is_solid(mesh)
    return Report(
        solid, len(volumes), total, share, int(mesh.euler_number), solid and share >= 0.95 and 0.01 < total < 8
    )


def is_solid(mesh: trimesh.Trimesh) -> bool:
    """Whether a mesh is closed, consistently wound and faces outwards."""
    return bool(mesh.is_watertight and mesh.is_winding_consistent and body_volumes(mesh).sum() > 0)


def body_labels(mesh: trimesh.Trimesh) -> NDArray[np.int64]:
    """Number (faces,) of the piece that each face belongs to; pieces share no edge."""
    pairs = np.asarray(mesh.face_adjacency)
    graph = sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(len(mesh.faces),) * 2)
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def body_volumes(mesh: trimesh.Trimesh) -> NDArray[np.float64]:
    """Signed volume of each piece, by the divergence theorem; negative for one that faces inwards."""
    a, b, c = np.moveaxis(np.asarray(mesh.vertices - mesh.vertices.mean(axis=0))[mesh.faces], 1, 0)
    return np.bincount(body_labels(mesh), np.einsum("ij,ij->i", a, np.cross(b, c)) / 6).astype(np.float64)


def to_manifold(mesh: trimesh.Trimesh) -> Manifold | None:
    """The mesh for solid modelling, or None if it is not a closed surface there."""
    manifold = Manifold(Mesh(np.asarray(mesh.vertices, dtype=np.float32), np.asarray(mesh.faces, dtype=np.uint32)))
    return manifold if manifold.status() == Error.NoError and not manifold.is_empty() else None


def from_manifold(manifold: Manifold) -> trimesh.Trimesh:
    """A solid model as a mesh."""
    raw = manifold.to_mesh64()
    vertices = np.asarray(raw.vert_properties, dtype=np.float64)[:, :3]
    return trimesh.Trimesh(vertices, np.asarray(raw.tri_verts, dtype=np.int64), process=False)


def simplify(mesh: trimesh.Trimesh, most_faces: int) -> trimesh.Trimesh:
    """A mesh of at most `most_faces` faces; a closed one stays closed.

    Quadric edge collapse, and where it tears the surface, collapses that keep it a manifold within a growing tolerance.

    Raises:
        ConfigError: less than 4 faces.
        DataError: a closed mesh cannot be brought below that number and stay closed.
    """
    if most_faces < 4:
        raise ConfigError(f"max_faces is {most_faces}; a solid has 4 faces or more")
    if len(mesh.faces) <= most_faces:
        return mesh
    closed = is_solid(mesh)
    fewer = mesh.simplify_quadric_decimation(face_count=most_faces)
    if len(fewer.faces) <= most_faces and (is_solid(fewer) or not closed):
        return fewer
    manifold = to_manifold(mesh)
    tolerance = 1e-3 * float(mesh.scale)
    while manifold is not None and tolerance < mesh.scale:
        simpler = from_manifold(manifold.simplify(tolerance))
        if 4 <= len(simpler.faces) <= most_faces and is_solid(simpler):
            return simpler
        tolerance *= 1.5
    raise DataError(f"a mesh of {len(mesh.faces)} faces cannot be brought to {most_faces} and stay closed; allow more")


def export(mesh: trimesh.Trimesh, path: Path, *, most_faces: int | None = None) -> Path:
    """Write a mesh, vertices shared between faces, in the format of the path's ending; return the path.

    Args:
        mesh: with faces.
        path: ends in .glb, .obj, .ply or .stl; its folder is made.
        most_faces: simplify to so many.

    Raises:
        ConfigError: another ending, or see `simplify`.
        DataError: an empty mesh, or see `simplify`.
        StorageError: the file cannot be written.
    """
    if path.suffix.lower() not in WRITABLE:
        raise ConfigError(f"{path.name}: meshes are written as {', '.join(WRITABLE)}; end the name in one of them")
    if len(mesh.faces) == 0:
        raise DataError(f"{path.name}: the mesh is empty; there is nothing to write")
    # Every format but OBJ holds 32 bits a coordinate, so what is written is what was judged.
    rounded = np.asarray(mesh.vertices, dtype=np.float32).astype(np.float64)
    out = trimesh.Trimesh(rounded, mesh.faces, process=False)
    if most_faces is not None:
        out = simplify(out, most_faces)
    out.merge_vertices(digits_vertex=9)
    out.update_faces((np.diff(np.sort(out.faces, axis=1), axis=1) > 0).all(axis=1))
    options: dict[str, Any] = {"include_normals": True} if path.suffix.lower() == ".glb" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        out.export(path, **options)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; choose a writable folder") from error
    return path
