"""Which face of a mesh each pixel of a camera sees: by embree's ray casting, or by a depth buffer in numpy."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import trimesh
from numpy.typing import NDArray

from rectiflow.errors import ConfigError, MissingDependency

Float = NDArray[np.float64]
Engine = Literal["embree", "buffer"]

_PIXELS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Camera:
    """A pinhole or parallel camera that looks at the origin.

    Attributes:
        size: pixels of each side of the square picture.
        eye: where it stands; for a parallel camera only the direction and the depth of its front plane count.
        extent: half the height that it sees at the origin.
        parallel: orthographic instead of perspective.
    """

    size: int
    eye: tuple[float, float, float]
    extent: float
    parallel: bool = False

    @property
    def axes(self) -> Float:
        """Rows: right, up and forward, orthonormal."""
        forward = -np.array(self.eye) / np.linalg.norm(self.eye)
        above = np.array([0.0, 0.0, -1.0]) if abs(forward[1]) > 0.999 else np.array([0.0, 1.0, 0.0])
        right = np.cross(forward, above)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), forward])

    def rays(self) -> tuple[Float, Float]:
        """Origins and unit directions (size^2, 3) through the pixel centres, row by row from the top left."""
        middle = (np.arange(self.size) + 0.5) / self.size * 2 - 1
        x, y = np.meshgrid(middle * self.extent, -middle * self.extent)
        right, up, forward = self.axes
        across = x.reshape(-1, 1) * right + y.reshape(-1, 1) * up
        eye = np.broadcast_to(np.array(self.eye), across.shape)
        if self.parallel:
            return eye + across, np.broadcast_to(forward, across.shape)
        directions = across + forward * np.linalg.norm(self.eye)
        return eye, directions / np.linalg.norm(directions, axis=1, keepdims=True)

    def project(self, points: Float) -> Float:
        """Column, row (fractional pixels, centres at .5) and depth along the view (n, 3) of points (n, 3).

        Of a perspective camera the depth is inverted and negated, so that it too is affine over a face on the picture.
        """
        x, y, depth = ((points - np.array(self.eye)) @ self.axes.T).T
        if not self.parallel:
            scale = np.linalg.norm(self.eye) / depth
            x, y, depth = x * scale, y * scale, -1 / depth
        return np.stack([(x / self.extent + 1) * self.size / 2, (1 - y / self.extent) * self.size / 2, depth], axis=1)


def seen_faces(mesh: trimesh.Trimesh, camera: Camera, engine: Engine | None = None) -> NDArray[np.int64]:
    """The nearest face (size, size) on the ray of each pixel, -1 where there is none; faces are seen from both sides.

    Args:
        mesh: in front of the camera.
        camera: where from.
        engine: "embree", "buffer" (numpy alone), or None for embree where it is installed.

    Raises:
        ConfigError: an unknown engine.
        MissingDependency: embree is asked for and not installed.
    """
    if engine not in (None, "embree", "buffer"):
        raise ConfigError(f"engine is {engine!r}; it must be embree or buffer")
    installed = importlib.util.find_spec("embreex") is not None
    if engine == "embree" and not installed:
        raise MissingDependency(
            "engine embree needs the package embreex, not installed: pip install 'rectiflow[shapes]'"
        )
    if len(mesh.faces) == 0:
        return np.full((camera.size, camera.size), -1)
    faces = _cast(mesh, camera) if engine == "embree" or (engine is None and installed) else _rasterise(mesh, camera)
    return faces.reshape(camera.size, camera.size)


def _cast(mesh: trimesh.Trimesh, camera: Camera) -> NDArray[np.int64]:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    corners = mesh.vertices[mesh.faces].astype(np.float32)
    # The scene keeps a reference to what it holds; the name keeps the buffers alive while it is asked.
    geometry: Any = TriangleMesh(scene, corners)
    origins, directions = camera.rays()
    hits = scene.run(np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32))
    del geometry
    return np.asarray(hits, dtype=np.int64)


def _rasterise(mesh: trimesh.Trimesh, camera: Camera) -> NDArray[np.int64]:
    corners = camera.project(np.asarray(mesh.vertices))[mesh.faces]
    low = np.clip(np.ceil(corners[:, :, :2].min(axis=1) - 0.5), 0, camera.size).astype(np.int64)
    high = np.clip(np.floor(corners[:, :, :2].max(axis=1) - 0.5) + 1, 0, camera.size).astype(np.int64)
    counts = np.prod(np.maximum(high - low, 0), axis=1)
    nearest = np.full(camera.size**2, np.inf)
    seen = np.full(camera.size**2, -1)
    bounds = np.searchsorted(np.cumsum(counts), np.arange(_PIXELS_AT_ONCE, counts.sum(), _PIXELS_AT_ONCE))
    for chosen in np.split(np.arange(len(counts)), bounds):
        face, pixel, depth = _fragments(corners, low, high, counts, chosen, camera.size)
        order = np.lexsort((depth, pixel))
        face, pixel, depth = face[order], pixel[order], depth[order]
        first = np.flatnonzero(np.diff(pixel, prepend=-1))
        first = first[depth[first] < nearest[pixel[first]]]
        nearest[pixel[first]], seen[pixel[first]] = depth[first], face[first]
    return seen


def _fragments(
    corners: Float,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    counts: NDArray[np.int64],
    chosen: NDArray[np.int64],
    size: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
    """Face, pixel and depth of every pixel centre that lies in one of the `chosen` faces."""
    face = np.repeat(chosen, counts[chosen])
    ends = np.cumsum(counts[chosen])
    place = np.arange(len(face)) - np.repeat(ends - counts[chosen], counts[chosen])
    row, column = np.divmod(place, np.maximum(high[face, 0] - low[face, 0], 1))
    column, row = column + low[face, 0], row + low[face, 1]
    a, b, c = (corners[face, i] for i in range(3))
    x, y = column + 0.5, row + 0.5
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        of_b = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (y - a[:, 1]) * (c[:, 0] - a[:, 0])) / area
        of_c = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])) / area
    inside = (of_b >= 0) & (of_c >= 0) & (of_b + of_c <= 1)
    depth = a[:, 2] + of_b * (b[:, 2] - a[:, 2]) + of_c * (c[:, 2] - a[:, 2])
    return face[inside], (row * size + column)[inside], depth[inside]
