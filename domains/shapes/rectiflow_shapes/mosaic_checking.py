"""Whether a mosaic keeps its shape, and conversion that looks: it takes more nodes and cubes, or refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow_shapes.extraction import surface
from rectiflow_shapes.meshes import body_volumes
from rectiflow_shapes.mosaic import Mosaic, convert, decode
from rectiflow_shapes.mosaic_values import around_surface, fit_values
from rectiflow_shapes.preparing import sample_surface
from rectiflow_shapes.signed_distance import signed_distance

SIZES = ((64, 7), (256, 7), (256, 11), (512, 11))
"""Numbers of cubes and nodes that a conversion which checks itself tries in turn."""
FITTED = 60_000
"""Points that values are fitted to."""
_PLACED = 16_384
_THIN = 512
_COUNTED = 0.005
_RESOLVED = 1.5  # cells that a wall needs to be seen


class Fidelity(NamedTuple):
    """What is left of a shape in a mosaic: decoded over true volume, and the `bodies` of the decoded and of the true shape."""

    volume_ratio: float
    bodies: int
    true_bodies: int

    def keeps(self, within: float) -> bool:
        """Whether the volume is within that share and no body was lost or made: thin parts vanish or fall apart otherwise."""
        return abs(self.volume_ratio - 1) <= within and self.bodies == self.true_bodies

    @property
    def faithful(self) -> bool:
        """Whether the volume is within a tenth, in as many bodies."""
        return self.keeps(0.1)


def fidelity(mosaic: Mosaic, mesh: trimesh.Trimesh, resolution: int = 64) -> Fidelity:
    """Compare a mosaic, decoded at a resolution, with the closed mesh that it was made from."""
    decoded = surface(decode(mosaic, resolution))
    volume = float(decoded.volume) if len(decoded.faces) else 0.0
    return Fidelity(volume / float(mesh.volume), bodies(decoded), bodies(mesh))


def bodies(mesh: trimesh.Trimesh) -> int:
    """Pieces of a mesh, and hollows in it, that hold at least a two-hundredth of its volume.

    Where parts cross or almost touch, the exact distances on a grid make specks and hollows of a few cells, too.
    """
    if len(mesh.faces) == 0:
        return 0
    volumes = np.abs(body_volumes(mesh))
    return int((volumes >= _COUNTED * volumes.sum()).sum())


def convert_faithfully(
    mesh: trimesh.Trimesh,
    generator: torch.Generator,
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    resolution: int = 192,
    within: float = 0.05,
) -> Mosaic:
    """The first mosaic, of those sizes, its values fitted, that keeps a mesh's volume and bodies.

    Args:
        mesh: closed, in [-1, 1]^3.
        generator: of the points of its surface.
        sizes: (cubes, nodes a side) to try, in order.
        resolution: of the grid that it is judged on; walls thinner than a cell of it are lost whatever the mosaic.
        within: share of the volume that may be missing or too much.

    Raises:
        DataError: none of them does; the message says what the last one got, and how thin the thinnest walls are.
    """

    def distance(points: Tensor) -> Tensor:
        # Closed meshes whose parts cross or fold over have pseudo-normals that point inwards here and there.
        return signed_distance(mesh, points, "winding")

    places, _ = sample_surface(mesh, _PLACED, generator)
    told, _ = sample_surface(mesh, FITTED, generator)
    for cubes, nodes in sizes:
        mosaic = convert(places, distance, cubes, nodes=nodes)
        mosaic = fit_values(mosaic, *around_surface(told, mosaic, distance, generator))
        found = fidelity(mosaic, mesh, resolution)
        if found.keeps(within):
            return mosaic
    walls = float(wall_thickness(mesh, generator).quantile(0.05)) * (resolution - 1) / 2
    advice = "judge it on a finer grid" if walls < _RESOLVED else "use more cubes or nodes"
    raise DataError(
        f"a mosaic of {cubes} cubes of {nodes}^3 nodes keeps {found.volume_ratio:.0%} of the volume, in {found.bodies} bodies "
        f"for {found.true_bodies}; allowed: {1 - within:.0%} to {1 + within:.0%} and as many. A twentieth of its walls is "
        f"thinner than {walls:.1f} cells of the grid of {resolution}: {advice}"
    )


def wall_thickness(mesh: trimesh.Trimesh, generator: torch.Generator, count: int = _THIN) -> Tensor:
    """How far points of a closed surface are from the other side, straight inwards: (count,), within a sixth."""
    points, normals = sample_surface(mesh, count, generator)
    depths = torch.from_numpy(np.geomspace(2e-3, 2 * float(mesh.scale), 60)).float()
    inwards = points[:, None] - depths[:, None] * normals[:, None]
    outside = signed_distance(mesh, inwards, "winding") >= 0
    # Beyond the whole mesh every point is outside, so that one is always found.
    return depths[outside.int().argmax(1)]
