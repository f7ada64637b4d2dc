"""How near two shapes are, and two sets of shapes: each figure under a name that says its convention.

A shape is a cloud of points of its surface, (P, 3). `squared` distances stay squared; `sum` adds the two directions, `half`
takes their mean. Every figure of two clouds has a floor, that of two samplings of one surface: report `floors` beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from torch import Tensor

from rectiflow.errors import ConfigError, DataError

_TIE = 1e-6  # float32 distances of a cloud and its copy differ from 0 by less
_BLOCK = 1 << 20  # distances held at once, about what fits in a cache


class Chamfer(NamedTuple):
    """Chamfer distances of clouds A and B, with d the distance to the nearest point of the other.

    cd_l2sq_sum: mean_A d^2 + mean_B d^2 (DeepSDF, PointFlow). cd_l1_sum: mean_A d + mean_B d (3DShape2VecSet).
    cd_l1_half: half of that (occupancy networks).
    """

    cd_l2sq_sum: float
    cd_l1_sum: float
    cd_l1_half: float


def chamfer(a: Tensor, b: Tensor) -> Chamfer:
    """Chamfer distances of two clouds (P, 3) and (Q, 3), exact, in float64."""
    to_b, to_a = (gaps for gaps, _ in _nearest_both_ways(a, b))
    squared = float(np.square(to_b).mean() + np.square(to_a).mean())
    plain = float(to_b.mean() + to_a.mean())
    return Chamfer(squared, plain, plain / 2)


def f_score(a: Tensor, b: Tensor, threshold: float) -> float:
    """Harmonic mean of the shares of a's and of b's points that lie within `threshold` of the other cloud (F-score@tau).

    With shapes of size 1.8 and 10,000 points, two samplings of one surface get about 0.86 at 0.02 and 0.39 at 0.01.
    """
    to_b, to_a = (gaps for gaps, _ in _nearest_both_ways(a, b))
    precision, recall = float((to_b < threshold).mean()), float((to_a < threshold).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


class NormalConsistency(NamedTuple):
    """Mean cosine of normals at nearest points, both ways; unsigned forgives flipped faces, signed finds them."""

    unsigned: float
    signed: float


def normal_consistency(a: Tensor, a_normals: Tensor, b: Tensor, b_normals: Tensor) -> NormalConsistency:
    """Agreement of the normals of two clouds, all (P, 3) or (Q, 3), normals of length 1; 1 is perfect."""
    (_, in_b), (_, in_a) = _nearest_both_ways(a, b)
    normals_a, normals_b = _points(a_normals), _points(b_normals)
    forth = (normals_a * normals_b[in_b]).sum(1)
    back = (normals_b * normals_a[in_a]).sum(1)
    unsigned = (np.abs(forth).mean() + np.abs(back).mean()) / 2
    return NormalConsistency(float(unsigned), float((forth.mean() + back.mean()) / 2))


def volume_iou(inside_a: Tensor, inside_b: Tensor) -> float:
    """Shared over joint volume, of two boolean occupancies at the same points, 1 for two empty ones."""
    if inside_a.shape != inside_b.shape:
        raise ConfigError(
            f"occupancies have shapes {tuple(inside_a.shape)} and {tuple(inside_b.shape)}; they must be of the same points"
        )
    joint = int((inside_a | inside_b).sum())
    return 1.0 if joint == 0 else int((inside_a & inside_b).sum()) / joint


def emd(a: Tensor, b: Tensor) -> float:
    """Earth mover's distance: the least mean |x - y| over one-to-one matchings of clouds of equal size, exact.

    About 10 ms at 256 points and 2 s at 2048.

    Raises:
        DataError: clouds of different sizes.
    """
    if a.shape != b.shape:
        raise DataError(f"clouds have shapes {tuple(a.shape)} and {tuple(b.shape)}; a matching needs equal ones")
    gaps = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
    return float(gaps[linear_sum_assignment(gaps)].mean())


def floors(sample: Callable[[int], Tensor], count: int, threshold: float = 0.02) -> dict[str, float]:
    """What two samplings of one surface get: the figures that no reconstruction can beat at this number of points.

    Args:
        sample: count -> points (count, 3), new ones each call.
        count: points a cloud.
        threshold: of the F-score.
    """
    a, b = sample(count), sample(count)
    return {**chamfer(a, b)._asdict(), f"f_score_{threshold:g}": f_score(a, b, threshold)}


def chamfer_matrix(a: Tensor, b: Tensor) -> Tensor:
    """cd_l2sq_sum of every cloud of a (S, P, 3) with every cloud of b (R, Q, 3): (S, R), symmetric to the bit for a = b.

    In float32, within about 1e-6 of exact for clouds in [-1, 1]^3; runs where a is.

    Raises:
        DataError: no sets of clouds.
    """
    _check_clouds(a, b)
    left = torch.cat([-2 * a, a.square().sum(-1, keepdim=True), torch.ones_like(a[..., :1])], dim=-1).float()
    right = torch.cat([b, torch.ones_like(b[..., :1]), b.square().sum(-1, keepdim=True)], dim=-1).float()
    right = right.transpose(1, 2).contiguous()
    rows = max(1, _BLOCK // (a.shape[1] * b.shape[1]))
    result = torch.empty(len(a), len(b), device=a.device)
    same = a is b
    for i in range(len(a)):
        for j in range(i if same else 0, len(b), rows):
            squared = torch.matmul(left[i], right[j : j + rows])
            forth, back = squared.amin(2).clamp_(min=0), squared.amin(1).clamp_(min=0)
            result[i, j : j + rows] = forth.mean(1) + back.mean(1)
    return torch.triu(result) + torch.triu(result, 1).T if same else result


def emd_matrix(a: Tensor, b: Tensor) -> Tensor:
    """`emd` of every cloud of a (S, P, 3) with every cloud of b (R, P, 3): (S, R) float64."""
    _check_clouds(a, b)
    return torch.tensor([[emd(x, y) for y in b] for x in a], dtype=torch.float64)


def mmd(between: Tensor) -> float:
    """Minimum matching distance: mean over references (columns) of the distance to the nearest sample (rows); between (S, R)."""
    return float(between.amin(0).mean())


def coverage(between: Tensor) -> float:
    """Share of references (columns) that are nearest to some sample (rows), between (S, R).

    Two sets of one distribution and of one size get about 0.5, not 1.
    """
    return len(set(between.argmin(1).tolist())) / between.shape[1]


def nearest_neighbour_accuracy(samples: Tensor, between: Tensor, references: Tensor) -> float:
    """1-NNA: how often the nearest neighbour of a shape, of both sets but itself, is of its own set (arXiv 1610.06545).

    0.5 is ideal. Near 1 the sets are told apart; towards 0 the samples are copies of references. Of several neighbours that are
    equally near (within 1e-6), each counts in proportion, so that a reference copied once gets 0 and a set copied whole gets 0.

    Args:
        samples: (S, S) distances among samples.
        between: (S, R) distances of samples to references.
        references: (R, R) distances among references.
    """
    own = _own_share(samples, between)
    other = _own_share(references, between.T)
    return float(torch.cat([own, other]).mean())


def _own_share(within: Tensor, across: Tensor) -> Tensor:
    within, across = within.double().clone().fill_diagonal_(float("inf")), across.double()
    nearest = torch.minimum(within.amin(1), across.amin(1))[:, None] + _TIE
    own, other = (within <= nearest).sum(1), (across <= nearest).sum(1)
    return own.double() / (own + other)


class Null(NamedTuple):
    """Mean and standard deviation of a figure between random halves of one set."""

    mean: float
    deviation: float


def nearest_neighbour_null(references: Tensor, generator: torch.Generator, splits: int = 100) -> Null:
    """1-NNA between random halves of one set, from its distances (R, R): what a perfect generator gets at R / 2 shapes."""
    if len(references) < 4:
        raise DataError(f"a null of 1-NNA got {len(references)} shapes; it needs at least 4")
    half = len(references) // 2
    figures = []
    for _ in range(splits):
        order = torch.randperm(len(references), generator=generator).to(references.device)
        first, second = order[:half], order[half : 2 * half]
        figures.append(
            nearest_neighbour_accuracy(
                references[first][:, first], references[first][:, second], references[second][:, second]
            )
        )
    return Null(float(np.mean(figures)), float(np.std(figures)))


def _nearest_both_ways(a: Tensor, b: Tensor) -> tuple[tuple[NDArray[np.float64], NDArray[np.int64]], ...]:
    """Distances from a's points to b, with the places in b, and from b's to a."""
    points_a, points_b = _points(a), _points(b)
    return KDTree(points_b).query(points_a), KDTree(points_a).query(points_b)


def _points(cloud: Tensor) -> NDArray[np.float64]:
    if cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) == 0:
        raise DataError(f"a cloud has shape {tuple(cloud.shape)}; it must be (P, 3) with P >= 1")
    points: NDArray[np.float64] = cloud.detach().cpu().numpy().astype(np.float64)
    if not np.isfinite(points).all():
        raise DataError("a cloud holds NaN or infinity; look at the mesh that it was sampled from")
    return points


def _check_clouds(a: Tensor, b: Tensor) -> None:
    if any(part.ndim != 3 or part.shape[2] != 3 or part.shape[1] == 0 for part in (a, b)):
        raise DataError(f"sets of clouds have shapes {tuple(a.shape)} and {tuple(b.shape)}; they must be (S, P, 3)")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise DataError("a cloud holds NaN or infinity; look at the mesh that it was sampled from")
