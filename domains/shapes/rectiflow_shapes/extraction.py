"""Fields on a grid to meshes: marching cubes with an exact index-to-world map, signs where nothing was measured, coarse to fine.

A field is indexed [x, y, z] with its R nodes a side at linspace(-1, 1, R): the first and the last lie on the box.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn import functional as F

from rectiflow.errors import ConfigError, NonFiniteError

_NUDGE = 1e-3  # of a typical value beside the surface: how small a node's value may be


def grid_points(resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """Nodes of a grid over [-1, 1]^3, (R, R, R, 3) float32, indexed [x, y, z].

    Raises:
        ConfigError: fewer than two nodes a side.
    """
    if resolution < 2:
        raise ConfigError(f"a grid has {resolution} nodes a side; allowed: at least 2, such as 64")
    axis = torch.linspace(-1, 1, resolution, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def surface(field: Tensor) -> trimesh.Trimesh:
    """The surface where a field crosses 0, by Lewiner's marching cubes, closed at the box and facing outwards.

    A field without negative nodes gives a mesh without faces; one with some on the box is closed half a cell beyond it.

    Args:
        field: (R, R, R), negative inside.

    Raises:
        ConfigError: the field is no cube of at least two nodes a side.
        NonFiniteError: it holds NaN or infinity.
    """
    if field.ndim != 3 or len(set(field.shape)) > 1 or field.shape[0] < 2:
        raise ConfigError(f"a field has shape {tuple(field.shape)}; allowed: (R, R, R) with R >= 2")
    if not field.isfinite().all():
        raise NonFiniteError("a field holds NaN or infinity; look at the sample that it was decoded from")
    values = field.detach().cpu().numpy().astype(np.float32)
    if not (values < 0).any():
        return trimesh.Trimesh(process=False)
    values = np.pad(values, 1, mode="edge")
    _close(values)
    _keep_off_zero(values)
    vertices, faces, _, _ = marching_cubes(values, 0.0)  # type: ignore[no-untyped-call]
    scale = 2 / (field.shape[0] - 1)
    return trimesh.Trimesh((vertices.astype(np.float64) - 1) * scale - 1, faces, process=False)


def _close(values: NDArray[np.float32]) -> None:
    """Positive values, mirrored from the layer below, in the outermost layer of a padded field."""
    for axis in range(3):
        for side in (0, -1):
            rim = np.moveaxis(values, axis, 0)[side]
            np.abs(rim, out=rim)


def _keep_off_zero(values: NDArray[np.float32]) -> None:
    """Make the smallest values larger, in place: nodes on the surface make triangles without area, and vertices that coincide."""
    inside = values < 0
    beside = np.zeros_like(inside)
    for axis in range(3):
        low, high = np.moveaxis(inside, axis, 0)[:-1], np.moveaxis(inside, axis, 0)[1:]
        crossed = low != high
        marks = np.moveaxis(beside, axis, 0)
        marks[:-1] |= crossed
        marks[1:] |= crossed
    least = np.float32(_NUDGE * np.abs(values[beside]).mean())
    near = np.abs(values) < least
    values[near] = np.where(inside[near], -least, least)


def flood_signs(values: Tensor, covered: Tensor, far: float = 1.0) -> Tensor:
    """A field with +far or -far where nothing covers it: outside where it is joined to the box, else as its surroundings.

    A region of uncovered nodes that reaches the box is outside; any other takes the sign of the median value of the covered
    nodes around it. A constant instead would turn the hollow of a solid into a second, inner surface, which is watertight.

    Args:
        values: (R, R, R), read where `covered`.
        covered: (R, R, R) bool.
        far: size of the value to fill with.
    """
    open_nodes = ~covered.cpu().numpy()
    regions, count = ndimage.label(open_nodes)
    known = values.detach().cpu().numpy()
    faces = [np.moveaxis(regions, axis, 0)[side] for axis in range(3) for side in (0, -1)]
    outside = set(np.unique(np.concatenate([face.ravel() for face in faces])))
    signs = np.ones(count + 1, dtype=known.dtype)
    boxes = ndimage.find_objects(regions)
    for region in range(1, count + 1):
        if region not in outside:
            signs[region] = _sign_around(known, open_nodes, regions, region, boxes[region - 1])
    filled = torch.from_numpy(signs[regions] * far).to(values)
    return torch.where(covered, values, filled)


def _sign_around(
    known: NDArray[np.float32],
    open_nodes: NDArray[np.bool_],
    regions: NDArray[np.int32],
    region: int,
    box: tuple[slice, slice, slice],
) -> float:
    # An enclosed region does not touch the grid's end, so the box may grow by one on each side.
    grown = tuple(slice(part.start - 1, part.stop + 1) for part in box)
    ring = ndimage.binary_dilation(regions[grown] == region) & ~open_nodes[grown]
    return -1.0 if np.median(known[grown][ring]) < 0 else 1.0


def without_specks(field: Tensor, least: int = 8) -> Tensor:
    """A field whose regions of one sign, solid or hollow, take the other sign where they have fewer than `least` nodes.

    A solid of a few nodes is no part of a shape but a ripple beside its surface; marching cubes would make it a body of its own.

    Args:
        field: (R, R, R), negative inside; regions are joined through the faces of nodes.
        least: nodes.
    """
    inside = field.detach().cpu().numpy() < 0
    specks = _small_regions(inside, least) | _small_regions(~inside, least)
    return torch.where(torch.from_numpy(specks).to(field.device), -field, field) if specks.any() else field


def _small_regions(nodes: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    regions, _ = ndimage.label(nodes)
    small = np.bincount(regions.ravel()) < least
    small[0] = False
    found: NDArray[np.bool_] = small[regions]
    return found


def evaluate_coarse_to_fine(
    decode: Callable[[Tensor], Tensor],
    resolution: int,
    *,
    coarse: int = 33,
    band: float = 2.0,
    limit: float = float("inf"),
    chunk: int = 65536,
) -> Tensor:
    """A field on a grid from a decoder of points that is asked only near the surface, (R, R, R) float32.

    A grid of `coarse` nodes a side is decoded whole; each next one has twice the cells. Its nodes are decoded where the last one
    came within `band` cell diagonals of the surface or changed sign, and are interpolated elsewhere.

    Args:
        decode: points (P, 3) -> values (P,), negative inside, near the surface a distance.
        resolution: nodes R a side; (R - 1) must be (coarse - 1) times a power of two, else one jump ends at R.
        coarse: nodes a side of the first grid; parts thinner than its cells can be missed.
        band: width of what is decoded, in cell diagonals of the coarser grid.
        limit: value beyond which the decoder is cut off (truncated distances); nodes at it are never near.
        chunk: points decoded at once.

    Raises:
        ConfigError: fewer than two nodes a side.
    """
    side = min(coarse, resolution)
    points = grid_points(side).reshape(-1, 3)
    values = _in_chunks(decode, points, chunk).reshape(side, side, side)
    while side < resolution:
        finer = min(2 * side - 1, resolution)
        near = _near_surface(values, min(band * 12**0.5 / (side - 1), 0.999 * limit))
        wanted = _resized(near.float(), finer) > 0
        values = _resized(values, finer)
        values[wanted] = _in_chunks(decode, grid_points(finer, values.device)[wanted], chunk)
        side = finer
    return values


def _near_surface(values: Tensor, width: float) -> Tensor:
    inside = (values < 0).float()[None, None]
    changes = F.max_pool3d(inside, 3, 1, 1) != -F.max_pool3d(-inside, 3, 1, 1)
    return changes[0, 0] | (values.abs() < width)


def _resized(values: Tensor, side: int) -> Tensor:
    return F.interpolate(values[None, None], (side, side, side), mode="trilinear", align_corners=True)[0, 0]


@torch.no_grad()
def _in_chunks(decode: Callable[[Tensor], Tensor], points: Tensor, chunk: int) -> Tensor:
    return torch.cat([decode(part).float() for part in torch.split(points, chunk)])
