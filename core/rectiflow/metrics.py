"""Distances between two sets of samples, on any features: Frechet, kernel, sliced Wasserstein, neighbours, diversity.

Every set is a tensor of shape (number of samples, features), of any float type, and is worked on in float64. What the
features are is the caller's business, who names the metric after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.errors import DataError

_BLOCK = 2048  # rows worked on at once: bounds the memory of n x m matrices


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return the squared Frechet distance of the Gaussians fitted to two sets.

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), arXiv 1706.08500 equation 6. x: (N, D), y: (M, D), N, M >= 2.
    It grows about as 1/N + 1/M for sets of one distribution: compare it with real-vs-real at the same sizes only.

    Raises:
        DataError: shapes that do not fit, too few samples, or values that are not finite.
    """
    x, y = _checked(x, y)
    shift = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    x, y = _centred(x), _centred(y)
    spread = x.square().sum() + y.square().sum()
    fewer_samples = max(len(x), len(y)) < x.shape[1]
    overlap = _overlap_by_singular_values(x, y) if fewer_samples else _overlap_by_eigenvalues(x.T @ x, y.T @ y)
    return float(shift + spread - 2 * overlap)


def _centred(x: Tensor) -> Tensor:
    centred: Tensor = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    return centred


def _overlap_by_singular_values(x: Tensor, y: Tensor) -> Tensor:
    # tr (S_x S_y)^(1/2) for S = x^T x is the nuclear norm of x y^T: exact, and cheap for fewer samples than features.
    overlap: Tensor = torch.linalg.svdvals(x @ y.T).sum()
    return overlap


def _overlap_by_eigenvalues(covariance_x: Tensor, covariance_y: Tensor) -> Tensor:
    # S_x S_y has the eigenvalues of the symmetric S_x^(1/2) S_y S_x^(1/2), which have no imaginary parts.
    values, vectors = torch.linalg.eigh(covariance_x)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    overlap: Tensor = torch.linalg.eigvalsh(root @ covariance_y @ root).clamp_min(0).sqrt().sum()
    return overlap


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel (a.b / D + 1)^3, on the full sets.

    arXiv 1801.01401, section 4 (KID, on whatever features are given). x: (N, D), y: (M, D), N, M >= 2. Its mean is 0
    for sets of one distribution at any size, so single values can be negative.

    Raises:
        DataError: shapes that do not fit, too few samples, or values that are not finite.
    """
    x, y = _checked(x, y)
    between = _kernel_sum(x, y) / (len(x) * len(y))
    return float(_within(x) + _within(y) - 2 * between)


def _within(x: Tensor) -> Tensor:
    diagonal = (x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum()
    return (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([(part @ y.T / x.shape[1] + 1).pow(3).sum() for part in torch.split(x, _BLOCK)]).sum()


def sliced_wasserstein(x: Tensor, y: Tensor, generator: torch.Generator, directions: int = 512) -> float:
    """Return the sliced 2-Wasserstein distance: root of the mean squared distance along random unit directions.

    Bonneel et al. 2015 (doi 10.1007/s10851-014-0506-3). x: (N, D), y: (M, D); sets of unequal size are compared by
    their exact quantile functions.

    Raises:
        DataError: shapes that do not fit, too few samples, or values that are not finite.
    """
    x, y = _checked(x, y)
    axes = torch.randn(x.shape[1], directions, generator=generator, dtype=torch.float64).to(x.device)
    axes = axes / axes.norm(dim=0)
    # Between two neighbouring steps of either quantile function both are constant.
    steps = torch.cat([torch.arange(len(s) + 1, dtype=torch.float64, device=x.device) / len(s) for s in (x, y)])
    steps = torch.unique(steps)
    middles, widths = (steps[1:] + steps[:-1]) / 2, steps.diff()
    rows_x, rows_y = (middles * len(x)).long(), (middles * len(y)).long()
    squares = []
    for part in torch.split(axes, 64, dim=1):
        gap = (x @ part).sort(dim=0).values[rows_x] - (y @ part).sort(dim=0).values[rows_y]
        squares.append(widths @ gap.square())
    return float(torch.cat(squares).mean().sqrt())


class PRDC(NamedTuple):
    """Precision, recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797) of fakes against reals."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, neighbours: int = 3) -> PRDC:
    """Return how far fakes lie among reals and reals among fakes, by balls that reach the k-th neighbour in a set.

    precision: share of fakes inside any real ball; recall: share of reals inside any fake ball; density: number of
    real balls around a fake, over k (above 1 where fakes crowd); coverage: share of real balls that hold a fake.
    real: (N, D), fake: (M, D), N, M > k.

    Raises:
        DataError: shapes that do not fit, too few samples, or values that are not finite.
    """
    real, fake = _checked(real, fake, least=neighbours + 1)
    real_radius, fake_radius = _ball_radii(real, neighbours), _ball_radii(fake, neighbours)
    held = torch.zeros(len(fake), dtype=torch.float64, device=real.device)
    recalled, covered = [], []
    for part, radius in zip(torch.split(real, _BLOCK), torch.split(real_radius, _BLOCK), strict=True):
        distance = torch.cdist(part, fake)
        inside = distance < radius[:, None]
        held += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((distance < fake_radius).any(dim=1))
    precision = float((held > 0).double().mean())
    recall, coverage = (float(torch.cat(parts).double().mean()) for parts in (recalled, covered))
    return PRDC(precision, recall, float(held.mean()) / neighbours, coverage)


def _ball_radii(x: Tensor, neighbours: int) -> Tensor:
    # The nearest point of a set is the point itself, at distance 0.
    return torch.cat([torch.cdist(part, x).kthvalue(neighbours + 1, dim=1).values for part in torch.split(x, _BLOCK)])


def diversity_ratio(x: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor) -> float:
    """Return the mean pairwise distance inside a class, over that of the reference: 1 as diverse, 0 collapsed.

    Both means run over the classes of which both sets have at least two samples, each class weighing the same.
    x: (N, D), labels: (N,), reference: (M, D), reference_labels: (M,).

    Raises:
        DataError: shapes that do not fit, no class with two samples in both sets, or values that are not finite.
    """
    x, reference = _checked(x, reference)
    own, real = [], []
    for label in torch.unique(reference_labels):
        members, others = x[labels == label], reference[reference_labels == label]
        if len(members) >= 2 and len(others) >= 2:
            own.append(_mean_pairwise_distance(members))
            real.append(_mean_pairwise_distance(others))
    if not own or not (total := float(torch.stack(real).sum())) > 0:
        raise DataError(
            f"no class has two different samples in both sets ({len(x)} and {len(reference)} samples); "
            "diversity inside a class needs at least two: generate more samples of each class"
        )
    return float(torch.stack(own).sum()) / total


def _mean_pairwise_distance(x: Tensor) -> Tensor:
    total = torch.stack([torch.cdist(part, x).sum() for part in torch.split(x, _BLOCK)]).sum()
    return total / (len(x) * (len(x) - 1))


def memorisation_ratio(x: Tensor, train: Tensor, held_out: Tensor) -> float:
    """Return the mean distance of samples to their nearest training sample, over that of held-out real samples.

    Near 1 the samples are as new as unseen real ones; far below 1 they are copies. x: (N, D), train: (M, D),
    held_out: (K, D).

    Raises:
        DataError: shapes that do not fit, too few samples, values that are not finite, or held-out samples that are
            all copies of training samples.
    """
    x, train = _checked(x, train)
    held_out, _ = _checked(held_out, train)
    real = float(_nearest(held_out, train).mean())
    # Rounding leaves copies at a distance near 1e-8 of their norm.
    if real <= 1e-6 * float(train.norm(dim=1).mean()):
        raise DataError(
            f"all {len(held_out)} held-out samples are copies of training samples; "
            "the memorisation ratio needs unseen ones: choose a split without duplicates"
        )
    return float(_nearest(x, train).mean()) / real


def _nearest(x: Tensor, others: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, others).amin(dim=1) for part in torch.split(x, _BLOCK)])


def _checked(x: Tensor, y: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise DataError(
            f"sample sets have shapes {tuple(x.shape)} and {tuple(y.shape)}; "
            "they must be (N, D) and (M, D) with the same D: flatten the samples or compute features first"
        )
    if min(len(x), len(y)) < least:
        raise DataError(
            f"sample sets have {len(x)} and {len(y)} samples; this metric needs at least {least} each: generate more"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise DataError("a sample set holds NaN or infinite values; all must be finite: look at the samples first")
    return x.double(), y.double()
