"""The values that suit the places and scales of a mosaic best: a least-squares problem, since its field is linear in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_shapes.mosaic import Mosaic, evaluate, field_terms

_SPREAD = (
    0.0,
    0.0,
    0.3,
    1.0,
)  # of a quarter of the points each, in cells of the mosaic: half of them lie on the surface


def fit_values(
    mosaic: Mosaic, points: Tensor, distances: Tensor, *, damping: float = 0.3, iterations: int = 40
) -> Mosaic:
    """A mosaic whose field is nearest to distances (P,) at points (P, 3), its places and scales as they were (LSQR).

    What is made least is the sum of (F(x) - d(x))^2 over the points and of damping^2 (V - V_0)^2 over the values. A converted
    mosaic is exact at its nodes and wrong between them, where a wall is thinner than a cell: between nodes that all lie outside
    it is not there. Cubes overlap, so that values that are wrong each by itself can give a field that is right.

    Args:
        mosaic: as `convert` makes it.
        points: near the surface, see `around_surface`; those that no cube holds say nothing.
        distances: signed, of the points.
        damping: squared, how many points the distance at a node counts as.
        iterations: at most.

    Raises:
        ConfigError: points and distances of different numbers, a negative damping, or no iteration.
    """
    if points.shape != (len(distances), 3) or damping < 0 or iterations < 1:
        raise ConfigError(
            f"a fit of values got points of shape {tuple(points.shape)}, {len(distances)} distances, damping={damping} and "
            f"iterations={iterations}; allowed: (P, 3), as many, 0 or more, and at least 1"
        )
    with torch.no_grad():
        terms = field_terms(mosaic, points)
        rows = terms.rows[:, None].expand_as(terms.places)
        entries = (rows.flatten().cpu().numpy(), terms.places.flatten().cpu().numpy())
        shape = (len(points), mosaic.values.numel())
        matrix = sparse.csr_array((terms.weights.flatten().double().cpu().numpy(), entries), shape=shape)
        missing = torch.where(terms.covered, distances - evaluate(mosaic, points)[0], 0.0)
    change = sparse.linalg.lsqr(matrix, missing.double().cpu().numpy(), damp=damping, iter_lim=iterations)[0]
    return mosaic._replace(
        values=mosaic.values + torch.from_numpy(np.asarray(change)).to(mosaic.values).view_as(mosaic.values)
    )


def around_surface(
    surface: Tensor, mosaic: Mosaic, distance: Callable[[Tensor], Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points (P, 3) for `fit_values` and their distances (P,): half of a surface's points as they are, the others moved.

    A quarter is moved by N(0, (0.3 cell)^2) and a quarter by N(0, cell^2), of the cells of the mosaic's grids.
    """
    cell = 2 * float(mosaic.scales.mean()) / (mosaic.values.shape[1] - 1)
    spread = cell * surface.new_tensor(_SPREAD).repeat(-(-len(surface) // len(_SPREAD)))[: len(surface), None]
    noise = torch.randn(surface.shape, generator=generator, dtype=surface.dtype, device=generator.device).to(surface)
    points = surface + spread * noise
    return points, distance(points).to(points)
