"""Meshes out of files that strangers made: checked before, while and after they are read."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import manifold3d
import numpy as np
import trimesh
from numpy.typing import NDArray

from rectiflow.errors import DataError

READABLE = (".glb", ".obj", ".off", ".ply", ".stl")
MOST_BYTES = 1 << 30
MOST_FACES = 4_000_000

# What the parsers of trimesh raise on files that are not what they say; there is no common base.
PARSER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
_PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_PLY_BYTES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}
_GLB_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_GLB_PARTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


def read_mesh(path: Path, *, most_faces: int = MOST_FACES) -> trimesh.Trimesh:
    """All triangles of a file as one mesh, equal vertices merged, empty and repeated faces dropped; not repaired.

    Args:
        path: a file in one of the formats `READABLE`, of at most 1 GiB.
        most_faces: reject a mesh of more.

    Raises:
        DataError: why the file gives no mesh with finite coordinates and some volume to its bounding box.
    """
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise DataError(f"{path.name}: files end in {', '.join(READABLE)}; convert it to one of them")
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path.name} is empty (0 bytes); it must hold a mesh")
        if size > MOST_BYTES:
            raise DataError(f"{path.name} has {size} bytes; at most {MOST_BYTES} are read: split or simplify it")
        _check_promises(path, suffix, size)
        own = {".off": _read_off, ".obj": _read_obj}.get(suffix)
        mesh = own(path) if own else trimesh.load_scene(path, process=False).to_mesh()
    except MemoryError as error:
        raise DataError(f"{path.name} asks for more memory than there is; it may lie about its size") from error
    except PARSER_ERRORS as error:
        what = re.sub(r"\s+", " ", str(error))[:120] or type(error).__name__
        raise DataError(
            f"{path.name} cannot be read as {suffix[1:].upper()}: {what}; check that it is whole"
        ) from error
    return _checked(mesh, path.name, most_faces)


def _read_off(path: Path) -> trimesh.Trimesh:
    """A mesh in the Object File Format; colours are passed over, faces of more corners cut into triangles."""
    lines = (line.split(b"#")[0].split() for line in path.read_bytes().splitlines())
    rows = [row for row in lines if row]
    head = rows[0][0].upper()
    if (
        b"BINARY" in [word.upper() for word in rows[0]]
        or not head.endswith(b"OFF")
        or b"4" in head
        or b"N" in head[:-3]
    ):
        raise ValueError(f"only OFF and COFF in text are read, not {b' '.join(rows[0][:3]).decode('ascii', 'replace')}")
    counts, rest = (rows[0][1:], rows[1:]) if len(rows[0]) > 1 else (rows[1], rows[2:])
    vertex_count, face_count = int(counts[0]), int(counts[1])
    if len(rest) < vertex_count + face_count:
        raise ValueError(f"{vertex_count} vertices and {face_count} faces in {len(rest)} lines")
    vertices = [[float(word) for word in row[:3]] for row in rest[:vertex_count]]
    faces = [[int(word) for word in row[1 : 1 + int(row[0])]] for row in rest[vertex_count : vertex_count + face_count]]
    return _of_polygons(vertices, faces)


def _read_obj(path: Path) -> trimesh.Trimesh:
    """The vertices and faces of a Wavefront OBJ file, of all its groups; textures, normals, lines and curves are passed over."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for line in path.read_bytes().replace(b"\\\n", b" ").replace(b"\\\r\n", b" ").splitlines():
        words = line.split(b"#")[0].split()
        if words[:1] == [b"v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == [b"f"]:
            places = [int(word.split(b"/")[0]) for word in words[1:]]
            # They count from 1, and negative ones back from the last vertex so far.
            faces.append([place - 1 if place > 0 else len(vertices) + place for place in places])
    return _of_polygons(vertices, faces)


def _of_polygons(vertices: list[list[float]], faces: list[list[int]]) -> trimesh.Trimesh:
    points = np.array(vertices).reshape(-1, 3)
    alike: dict[int, list[list[int]]] = {}
    for face in faces:
        if face and not 0 <= min(face) <= max(face) < len(points):
            raise ValueError(f"a face names vertex {max(face, key=abs)} of {len(points)}")
        alike.setdefault(len(face), []).append(face)
    triangles = [triangulated(np.array(same), points) for count, same in alike.items() if count > 2]
    return trimesh.Trimesh(points, np.concatenate([np.empty((0, 3), int), *triangles]), process=False)


def triangulated(polygons: NDArray[np.int64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Triangles (T, 3) of flat polygons (F, k) of points (P, 3): fans of convex ones, ears cut off the others, k - 2 of each.

    A fan of a polygon with a corner that turns inwards covers ground outside of it, once with each orientation.
    """
    if polygons.shape[1] == 3:
        return polygons
    corners = points[polygons]
    along = np.roll(corners, -1, axis=1) - corners
    with np.errstate(over="ignore", invalid="ignore"):  # coordinates are judged afterwards
        normals = np.cross(corners - corners[:, :1], np.roll(corners, -1, axis=1) - corners[:, :1]).sum(axis=1)
        turns = np.einsum("fkx,fx->fk", np.cross(np.roll(along, 1, axis=1), along), normals)
        convex = ~(turns < -1e-9 * (normals**2).sum(axis=1, keepdims=True)).any(axis=1)
    count = polygons.shape[1]
    fans = np.stack([np.zeros(count - 2, int), np.arange(1, count - 1), np.arange(2, count)], axis=1)
    found = [polygons[convex][:, fans].reshape(-1, 3)]
    for polygon, normal in zip(polygons[~convex], normals[~convex], strict=True):
        across = trimesh.geometry.plane_transform(points[polygon[0]], normal)  # type: ignore[no-untyped-call]
        flat = trimesh.transform_points(points[polygon], across)[:, :2]
        found.append(polygon[manifold3d.triangulate([flat])])
    return np.concatenate(found)


def _checked(mesh: trimesh.Trimesh, name: str, most_faces: int) -> trimesh.Trimesh:
    if len(mesh.vertices) == 0 or len(mesh.faces) == 0:
        raise DataError(
            f"{name} holds {len(mesh.vertices)} vertices and {len(mesh.faces)} faces; it must hold triangles"
        )
    if len(mesh.faces) > most_faces:
        raise DataError(f"{name} has {len(mesh.faces)} faces; at most {most_faces} are taken: simplify it first")
    faces, vertices = np.asarray(mesh.faces), np.asarray(mesh.vertices)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(f"{name}: faces name vertex {faces.max()} of {len(vertices)}; the file is damaged")
    used = vertices[np.unique(faces)]
    if not np.isfinite(used).all():
        bad = int((~np.isfinite(used).all(axis=1)).sum())
        raise DataError(f"{name}: {bad} of {len(used)} vertices are NaN or infinite; coordinates must be finite")
    sides = np.ptp(used, axis=0)
    if sides.max() <= 0 or not np.isfinite(sides).all() or sides.max() > 1e30:
        raise DataError(f"{name}: its box has sides {sides}; they must be finite and not all 0")
    if sides.min() < 1e-4 * sides.max():
        raise DataError(
            f"{name} is flat: its box has sides {np.array2string(sides, precision=3)}; a solid needs all three"
        )
    return _clean(vertices, faces, name)


def _clean(vertices: np.ndarray[Any, Any], faces: np.ndarray[Any, Any], name: str) -> trimesh.Trimesh:
    """Scale-free merging and dropping: at most a hundred-millionth of the longest side is closed."""
    low = vertices[np.unique(faces)].min(axis=0)
    scale = np.ptp(vertices[np.unique(faces)], axis=0).max()
    mesh = trimesh.Trimesh((vertices - low) / scale, faces, process=False)
    mesh.merge_vertices(digits_vertex=8)
    # Slivers without area stay: a closed surface may need them.
    mesh.update_faces((np.diff(np.sort(mesh.faces, axis=1), axis=1) > 0).all(axis=1))
    mesh.update_faces(mesh.unique_faces())
    mesh.remove_unreferenced_vertices()
    if len(mesh.faces) < 4:
        raise DataError(f"{name} has {len(mesh.faces)} different faces; a solid has 4 or more")
    return trimesh.Trimesh(mesh.vertices * scale + low, mesh.faces, process=False)


def _check_promises(path: Path, suffix: str, size: int) -> None:
    """Compare the counts that a file's header gives with its size, before a parser makes room for them.

    Raises:
        DataError: the file is shorter than its header says.
    """
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
        if suffix == ".stl":
            promised = _stl_bytes(head, size)
        elif suffix == ".ply":
            promised = _ply_bytes(head)
        elif suffix == ".off":
            promised = _off_bytes(head)
        elif suffix == ".glb":
            promised = _glb_bytes(head, stream, size)
        else:
            return
    if promised > size:
        raise DataError(
            f"{path.name} has {size} bytes, its header promises {promised} or more; it is cut off or damaged"
        )


def _stl_bytes(head: bytes, size: int) -> int:
    if len(head) < 84:
        return 0 if head.lstrip().lower().startswith(b"solid") else 84
    (count,) = struct.unpack_from("<I", head, 80)
    text = head.lstrip().lower().startswith(b"solid") and b"facet" in head.lower()
    return 0 if text else 84 + 50 * int(count)


def _ply_bytes(head: bytes) -> int:
    end = re.search(rb"end_header\r?\n", head)
    if not head.startswith(b"ply") or end is None:
        raise ValueError("no PLY header")
    lines = head[: end.start()].decode("ascii", "replace").splitlines()
    text = any(line.split()[:2] == ["format", "ascii"] for line in lines)
    total, count = end.end(), 0
    for words in (line.split() for line in lines):
        if words[:1] == ["element"]:
            count = int(words[2])
        elif words[:1] == ["property"]:
            # A number in a text takes two characters with its space; a list is at least its length.
            total += count * (2 if text else _PLY_BYTES[words[2] if words[1] == "list" else words[1]])
    # The last line of a text may end without its line break.
    return total - (1 if text else 0)


def _off_bytes(head: bytes) -> int:
    lines = [line.split(b"#")[0] for line in head.splitlines()]
    words = b" ".join(lines[:50]).split()
    if not words or not words[0].upper().endswith(b"OFF"):
        raise ValueError("no OFF header")
    vertices, faces = int(words[1]), int(words[2])
    return 6 * vertices + 8 * faces


def _glb_bytes(head: bytes, stream: Any, size: int) -> int:
    if len(head) < 20 or head[:4] != b"glTF":
        raise ValueError("no GLB header")
    _, length, chunk = struct.unpack_from("<III", head, 4)
    if max(length, 20 + chunk) > size:
        return int(max(length, 20 + chunk))
    stream.seek(20)
    tree = json.loads(stream.read(chunk))
    if "KHR_draco_mesh_compression" in tree.get("extensionsRequired", []):
        raise ValueError("it is compressed with Draco, which is not read: export it without")
    promised = 0
    for accessor in tree.get("accessors", []):
        one = _GLB_BYTES[accessor["componentType"]] * _GLB_PARTS[accessor["type"]]
        promised = max(promised, int(accessor["count"]) * one)
    return promised
