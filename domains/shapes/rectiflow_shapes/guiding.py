"""Losses on the shapes that a flow is about to make, and sampling that lowers them: fit points, be symmetric, keep a part.

The losses look at fields, so that they serve every representation whose decoding has a gradient. In the manner of GuideFlow3D
(arXiv 2510.16136), but on the estimate of the data, which has a field, where that method corrects the noisy state itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

from rectiflow.batch import Cond, State, map_state, parts
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.control.loss_guidance import sample_with_loss
from rectiflow.errors import ConfigError, DataError
from rectiflow.flow import Flow
from rectiflow.sampling import Solution
from rectiflow_shapes.extraction import grid_points
from rectiflow_shapes.farthest_points import farthest_points
from rectiflow_shapes.representation import Representation

_LONGEST = 0.5

FieldLoss = Callable[[Tensor], Tensor]
"""Fields (B, R, R, R) -> (B,), each from its field alone, 0 where all is as wished."""


def sample_guided(
    flow: Flow,
    x0: State,
    representation: Representation,
    loss: FieldLoss,
    *,
    strength: float = 1.0,
    steps: int = 25,
    corrections: int = 4,
    through_network: bool = False,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Euler steps from noise x0, each after corrections of the data estimate that lower a loss of its field.

    A correction is a Polyak step, strength * loss / |gradient|^2 along the gradient, of at most half a standard deviation: its
    length needs no tuning to the loss or the representation, and it ends where the loss does. The network is not differentiated
    (gradient skipping, arXiv 2412.00100) unless `through_network`, with one correction a step.

    Args:
        flow: of states of the representation.
        x0: (B, ...) noise.
        representation: whose `decode` has a gradient.
        loss: of fields.
        strength: 1 for Polyak's step; between 0 and 2.
        steps: Euler steps.
        corrections: a step.
        through_network: take the gradient through the network, too.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.

    Raises:
        ConfigError: a strength out of range, a decoding without a gradient, or as in `sample_with_loss`.
    """
    if not 0 < strength < 2:
        raise ConfigError(f"strength is {strength}; allowed: above 0 and below 2, 1 by default")

    def of_state(state: Any) -> Tensor:
        return loss(representation.decode(state))

    return sample_with_loss(
        flow,
        x0,
        polyak(of_state),
        step_size=strength,
        steps=steps,
        corrections=1 if through_network else corrections,
        through_network=through_network,
        cond=cond,
        guidance=guidance,
    )


def polyak(loss: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """A loss (B,) of states whose gradient is Polyak's step for a least value of 0: that of `loss`, times loss / |gradient|^2.

    Steps whose entries are larger than 0.5 in root mean square are shortened to that.
    """

    def scaled(state: Any) -> Tensor:
        with torch.enable_grad():
            leaf = map_state(lambda part: part.detach().clone().requires_grad_(), state)
            value = loss(leaf)
            if not value.requires_grad:
                raise ConfigError(
                    "the decoding of this representation has no gradient; guide one that has, such as mosaic"
                )
            slopes = torch.autograd.grad(value.sum(), parts(leaf), allow_unused=True)
        squares = sum(
            (slope.flatten(1).square().sum(1) for slope in slopes if slope is not None), torch.zeros_like(value)
        )
        entries = sum(part[0].numel() for part in parts(leaf))
        longest = _LONGEST * (entries / squares.clamp(min=1e-20)).sqrt()
        size = torch.minimum(value.detach() / squares.clamp(min=1e-20), longest)
        return size * loss(state)

    return scaled


def match_points(points: Tensor, *, whole: bool = True, width: float = 0.05) -> FieldLoss:
    """Loss of fields whose surface should go through points (P, 3): mean F^2 at them, that is squared distance.

    With `whole` the points cover the shape, and surface that is far from them costs as well: the mean of the squared distance to
    the points, as far as it exceeds the width and twice their spacing, over the grid's nodes with weights exp(-(F / width)^2).
    Without it they are a partial scan, and the rest is free.

    Args:
        points: in [-1, 1]^3.
        whole: whether the points are of the whole surface.
        width: of the shell around the surface, in units of the field; at least a cell.

    Raises:
        DataError: no points, or none of that shape.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise DataError(f"points to match have shape {tuple(points.shape)}; they must be (P, 3) with P >= 1")
    points = points.float()
    gaps: dict[int, Tensor] = {}

    def loss(fields: Tensor) -> Tensor:
        there = sample_fields(fields, points).square().mean(1)
        if not whole:
            return there
        resolution = fields.shape[1]
        if resolution not in gaps:
            gaps[resolution] = _squared_excess(points, resolution, width).to(fields)
        weights = (-(fields / width).square()).exp().flatten(1)
        back = (weights * gaps[resolution]).sum(1) / weights.sum(1).clamp(min=1e-6)
        return there + back

    return loss


def be_symmetric(axis: int = 0) -> FieldLoss:
    """Loss of fields that differ from their mirror image along an axis: mean squared difference.

    Raises:
        ConfigError: an axis that is not 0, 1 or 2.
    """
    if axis not in (0, 1, 2):
        raise ConfigError(f"axis is {axis}; allowed: 0 (x), 1 (y, up), 2 (z)")
    return lambda fields: (fields - fields.flip(axis + 1)).square().flatten(1).mean(1)


def keep_parts(reference: Tensor, kept: Tensor) -> FieldLoss:
    """Loss of fields that differ from a reference where it is to be kept: mean squared difference there.

    Args:
        reference: (R, R, R) field.
        kept: (R, R, R) bool, such as `part_regions(...) == 2`.

    Raises:
        DataError: nothing is kept, or shapes that differ.
    """
    if reference.shape != kept.shape or not kept.any():
        raise DataError(
            f"a reference of shape {tuple(reference.shape)} and kept nodes of shape {tuple(kept.shape)}, of which "
            f"{int(kept.sum())} are kept; they must agree, and at least one be kept"
        )
    return lambda fields: (fields[:, kept] - reference[kept]).square().mean(1)


def part_regions(points: Tensor, count: int, resolution: int, *, rounds: int = 20) -> Tensor:
    """Parts of a shape as regions of a grid, (R, R, R) int64 in 0..count-1: by k-means of its surface points (P, 3).

    The first centres are farthest points, so that the parts are the same each time.

    Raises:
        DataError: fewer points than parts.
    """
    centres = points[farthest_points(points, count)]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count).clamp(min=1)
        centres = sums / sizes[:, None]
    return torch.cdist(grid_points(resolution).reshape(-1, 3).to(centres), centres).argmin(1).reshape((resolution,) * 3)


def sample_fields(fields: Tensor, points: Tensor) -> Tensor:
    """Values (B, P) of fields (B, R, R, R) at points (P, 3) in [-1, 1]^3, trilinear."""
    # grid_sample's last axis of the volume is its first coordinate.
    where = points.flip(-1).to(fields)[None, None, None].expand(len(fields), -1, -1, -1, -1)
    values = F.grid_sample(fields[:, None], where, align_corners=True, padding_mode="border")
    return values[:, 0, 0, 0]


def _squared_excess(points: Tensor, resolution: int, width: float) -> Tensor:
    """How far beyond what is expected the nodes of a grid lie from points, squared: (R^3,)."""
    tree = KDTree(points.cpu().numpy())
    gaps = torch.from_numpy(tree.query(grid_points(resolution).reshape(-1, 3).numpy())[0])
    spacing = float(np.median(tree.query(points.cpu().numpy(), k=2)[0][:, 1])) if len(points) > 1 else 0.0
    return (gaps - width - 2 * spacing).clamp(min=0).square()
