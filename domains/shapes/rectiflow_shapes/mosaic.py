"""Mosaic-SDF (arXiv 2312.09222): a shape as a set of small cubes near its surface, each with a grid of signed distances.

The field of a mosaic blends the trilinear interpolants of the cubes that hold a point, with weights that fall to zero at their
faces; outside all cubes it is not defined. The order of the cubes carries no meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_shapes.extraction import flood_signs, without_specks
from rectiflow_shapes.farthest_points import farthest_points

MARGIN = 1.25
"""How much larger than just covering the surface the cubes are."""
NODES = 7
"""Nodes k a side of each cube's grid."""


class Mosaic(NamedTuple):
    """A set of n cubes.

    Attributes:
        positions: (n, 3) centres.
        scales: (n,) half sides.
        values: (n, k, k, k) signed distances, indexed [x, y, z], at the nodes linspace(-1, 1, k) of each cube.
    """

    positions: Tensor
    scales: Tensor
    values: Tensor


def convert(
    points: Tensor,
    distance: Callable[[Tensor], Tensor],
    count: int,
    *,
    nodes: int = NODES,
    margin: float = MARGIN,
    start: int = 0,
) -> Mosaic:
    """A shape as a mosaic, in float32: algorithm 1 of arXiv 2312.09222 without its optimisation.

    Cubes sit at farthest-point samples of the surface; all have the smallest size that covers it, times a margin; grids hold
    exact distances.

    Args:
        points: (P, 3) on the surface, many more than cubes.
        distance: points (Q, 3) -> signed distances (Q,), negative inside.
        count: number of cubes n.
        nodes: k.
        margin: at least 1.
        start: the point that the first cube sits at; others give other mosaics of the same shape.

    Raises:
        ConfigError: fewer than two nodes, or a margin below 1.
        DataError: fewer points than cubes.
    """
    if nodes < 2 or margin < 1:
        raise ConfigError(f"a mosaic got nodes={nodes} and margin={margin}; allowed: at least 2, and at least 1")
    points = points.float()
    positions = points[farthest_points(points, count, start)]
    gaps, _ = KDTree(positions.cpu().numpy()).query(points.cpu().numpy(), p=np.inf)
    scales = positions.new_full((count,), margin * float(gaps.max()))
    values = distance(node_points(positions, scales, nodes).reshape(-1, 3)).to(positions)
    return Mosaic(positions, scales, values.reshape(count, nodes, nodes, nodes))


def node_points(positions: Tensor, scales: Tensor, nodes: int) -> Tensor:
    """Where the nodes of the cubes lie, (n, k, k, k, 3)."""
    axis = torch.linspace(-1, 1, nodes, device=positions.device, dtype=positions.dtype)
    offsets = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return positions[:, None, None, None] + scales[:, None, None, None, None] * offsets


def evaluate(mosaic: Mosaic, points: Tensor) -> tuple[Tensor, Tensor]:
    """The field at points (P, 3), and whether a cube holds them, both (P,); 0 where none does.

    Differentiable with respect to the mosaic and to the points. The cubes that hold a point are found in a table of cells, so
    that the cost does not grow with n.
    """
    terms = field_terms(mosaic, points)
    # index_select, whose gradient is a plain sum, several times as fast as that of indexing.
    read = mosaic.values.reshape(-1).index_select(0, terms.places.flatten()).reshape(terms.weights.shape)
    values = points.new_zeros(len(points)).index_add(0, terms.rows, (terms.weights * read).sum(-1))
    return values, terms.covered


class FieldTerms(NamedTuple):
    """A field at points (P, 3) as what it is of the values of its mosaic: linear.

    Attributes:
        rows: (Q,) points, once for each cube that holds them.
        places: (Q, 8) of the flattened values: the nodes around the point in that cube.
        weights: (Q, 8) of those values; over all terms of a point they sum to 1.
        covered: (P,) whether a cube holds the point.
    """

    rows: Tensor
    places: Tensor
    weights: Tensor
    covered: Tensor


def field_terms(mosaic: Mosaic, points: Tensor) -> FieldTerms:
    """The terms whose sums are the field at points (P, 3); differentiable with respect to places, scales and points."""
    rows, cube = _containing(mosaic, points)
    offsets = points.index_select(0, rows) - mosaic.positions.index_select(0, cube)
    offsets = offsets / mosaic.scales.index_select(0, cube)[:, None]
    blend = (1 - offsets.abs().amax(-1)).clamp(min=0)
    total = points.new_zeros(len(points)).index_add(0, rows, blend)
    covered = total > 0
    share = blend / torch.where(covered, total, torch.ones_like(total)).index_select(0, rows)
    places, weights = _corners(mosaic.values.shape[1], cube, offsets)
    return FieldTerms(rows, places, weights * share[:, None], covered)


def _containing(mosaic: Mosaic, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of a point's and a cube's place, for all cubes that hold a point."""
    with torch.no_grad():
        side = mosaic.scales.max()
        low = mosaic.positions.amin(0) - side
        columns = int(((mosaic.positions.amax(0) + side - low).max() / side).floor()) + 1
        places = torch.tensor([columns * columns, columns, 1], device=points.device)

        # Cells are as wide as half a cube, so that a cube reaches into three of them along an axis.
        middle = ((mosaic.positions - low) / side).floor().long()
        steps = torch.arange(-1, 2, device=points.device)
        around = torch.cartesian_prod(steps, steps, steps)
        cells = (middle[:, None] + around).clamp(0, columns - 1)
        keys = torch.unique(
            (cells * places).sum(-1) * len(middle) + torch.arange(len(middle), device=points.device)[:, None]
        )
        cell_of_key, cube_of_key = keys // len(middle), keys % len(middle)

        cell = ((points - low) / side).floor().long()
        inside = ((cell >= 0) & (cell < columns)).all(-1)
        own = torch.where(inside, (cell * places).sum(-1), columns**3)
        first = torch.searchsorted(cell_of_key, own)
        counts = torch.searchsorted(cell_of_key, own, right=True) - first
        held = torch.repeat_interleave(torch.arange(len(points), device=points.device), counts)
        within = torch.arange(len(held), device=points.device) - torch.repeat_interleave(
            counts.cumsum(0) - counts, counts
        )
        cube = cube_of_key[first[held] + within]
        near = (points[held] - mosaic.positions[cube]).abs().amax(-1) < mosaic.scales[cube]
        return held[near], cube[near]


def _corners(nodes: int, cube: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The eight nodes around offsets (Q, 3) in [-1, 1] of cubes (Q,), as places of the flattened values, and their weights."""
    grid = (offsets + 1) * ((nodes - 1) / 2)
    base = grid.detach().floor().clamp(0, nodes - 2)
    above = grid - base
    steps = torch.arange(2, device=cube.device)
    steps = torch.cartesian_prod(steps, steps, steps)
    at = base.long()[:, None] + steps
    places = ((cube[:, None] * nodes + at[..., 0]) * nodes + at[..., 1]) * nodes + at[..., 2]
    return places, torch.where(steps == 1, above[:, None], 1 - above[:, None]).prod(-1)


def evaluate_on_grid(mosaic: Mosaic, resolution: int) -> tuple[Tensor, Tensor]:
    """The field at the nodes of a grid over [-1, 1]^3, and whether a cube holds them, both (R, R, R).

    The same numbers as `evaluate`, but each cube writes to the nodes that it holds: along the axes of a grid trilinear
    interpolation is a product of three small matrices. Differentiable with respect to the mosaic.
    """
    nodes, step = mosaic.values.shape[1], 2 / (resolution - 1)
    with torch.no_grad():
        first = ((mosaic.positions - mosaic.scales[:, None] + 1) / step).ceil().clamp(0, resolution)
        width = min(int((2 * mosaic.scales.max() / step).floor()) + 1, resolution)
        places = first.long()[..., None] + torch.arange(width, device=first.device)
    offsets = (places * step - 1 - mosaic.positions[..., None]) / mosaic.scales[:, None, None]
    grid = (offsets + 1) * ((nodes - 1) / 2)
    hats = (1 - (grid[..., None] - torch.arange(nodes, device=grid.device)).abs()).clamp(min=0)
    interpolated = torch.einsum("nwk,nijk->nijw", hats[:, 2], mosaic.values)
    interpolated = torch.einsum("nvj,nijw->nivw", hats[:, 1], interpolated)
    interpolated = torch.einsum("nui,nivw->nuvw", hats[:, 0], interpolated)
    far = offsets.abs().masked_fill(places >= resolution, 1.0)
    weights = 1 - torch.maximum(
        torch.maximum(far[:, 0, :, None, None], far[:, 1, None, :, None]), far[:, 2, None, None, :]
    )
    weights = weights.clamp(min=0)
    places = places.clamp(max=resolution - 1)
    flat = (places[:, 0, :, None, None] * resolution + places[:, 1, None, :, None]) * resolution
    flat = (flat + places[:, 2, None, None, :]).flatten()
    zeros = mosaic.values.new_zeros(resolution**3)
    total = zeros.index_add(0, flat, weights.flatten())
    blended = zeros.index_add(0, flat, (weights * interpolated).flatten())
    covered = total > 0
    values = torch.where(covered, blended / torch.where(covered, total, torch.ones_like(total)), zeros)
    return values.reshape((resolution,) * 3), covered.reshape((resolution,) * 3)


def decode(mosaic: Mosaic, resolution: int = 64) -> Tensor:
    """The field on a grid over [-1, 1]^3, (R, R, R): signs flood-filled where no cube reaches, specks of a few nodes cleared."""
    values, covered = evaluate_on_grid(mosaic, resolution)
    return without_specks(flood_signs(values, covered, far=float(mosaic.scales.max())))
