"""What a network may see of frames: numbers that do not change when the whole backbone is turned or moved. Lengths in nm."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rectiflow.domain import load_object
from rectiflow_proteins.frames import CARBON, NITROGEN
from rectiflow_proteins.torsions import (
    ALPHA_CARBON,
    ALPHA_CARBON_NITROGEN,
    CARBON_NITROGEN_ALPHA,
    NITROGEN_ALPHA,
    PEPTIDE_BOND,
)

PAIR_NUMBERS = 12
CHAIN_NUMBERS = 12
LINK_NUMBERS = 5
ANGSTROM = 0.1
NEIGHBOURS = 3.8
CHAIN_SCALE = 2.5
"""Per nm: neighbouring CA are 0.38 nm apart, so their places come near one."""

# R = sum of PRODUCTS times q_a q_b, quaternion (w, x, y, z), rows by (a, b), columns by the entry of R.
_ENTRIES = {
    (0, 0): (1, 0, 0, 0, 1, 0, 0, 0, 1),
    (1, 1): (1, 0, 0, 0, -1, 0, 0, 0, -1),
    (2, 2): (-1, 0, 0, 0, 1, 0, 0, 0, -1),
    (3, 3): (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    (0, 1): (0, 0, 0, 0, 0, -2, 0, 2, 0),
    (0, 2): (0, 0, 2, 0, 0, 0, -2, 0, 0),
    (0, 3): (0, -2, 0, 2, 0, 0, 0, 0, 0),
    (1, 2): (0, 2, 0, 2, 0, 0, 0, 0, 0),
    (1, 3): (0, 0, 2, 0, 0, 0, 2, 0, 0),
    (2, 3): (0, 0, 0, 0, 0, 2, 0, 2, 0),
}
_PRODUCTS = [_ENTRIES.get((a, b), (0,) * 9) for a in range(4) for b in range(4)]


P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Let autocast alone inside a function: places and axes of half precision would be off by a bond length."""

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> T:
        first = args[0]
        with torch.autocast(first.device.type if isinstance(first, Tensor) else "cpu", enabled=False):
            return function(*args, **kwargs)

    return exact


@full_precision
def rotation_matrices(rotations: Tensor) -> Tensor:
    """Matrices (..., 3, 3), columns the body axes, of unit quaternions (..., 4): one product with a table."""
    table = torch.tensor(_PRODUCTS, dtype=rotations.dtype, device=rotations.device)
    products = (rotations[..., :, None] * rotations[..., None, :]).flatten(-2)
    return torch.unflatten(products @ table, -1, (3, 3))


@full_precision
def seen_from(matrices: Tensor, vectors: Tensor) -> Tensor:
    """World vectors (..., 3) in the body axes of frames with matrices (..., 3, 3)."""
    return (vectors[..., None, :] @ matrices).squeeze(-2)


@full_precision
def in_world(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Body vectors (..., 3) of frames with matrices (..., 3, 3) in the world's axes."""
    return (vectors[..., None, :] @ matrices.mT).squeeze(-2)


@full_precision
def pair_geometry(matrices: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, N, N, 1) and 12 bounded numbers (B, N, N, 12): where residue j is seen from residue i, and its axes."""
    size = positions.shape[1]
    local = (positions[:, None, :, :] - positions[:, :, None, :]) @ matrices
    distance = torch.sqrt(local.square().sum(-1, keepdim=True) + 1e-8)
    axes = matrices.transpose(1, 2).reshape(len(positions), 1, 3, size * 3)
    turned = torch.unflatten(matrices.mT @ axes, -1, (size, 3)).transpose(2, 3).flatten(-2)
    return distance, torch.cat((local / (distance + 0.5), turned), -1)


@full_precision
def pair_harmonics(matrices: Tensor, positions: Tensor, degree: int) -> Tensor:
    """Where residue j is seen from residue i by harmonics of degrees 2 to `degree`, (B, N, N, (degree + 1)^2 - 4), by e3nn.

    Of the direction, in the normalisation "component", less the nearer residues are, as `pair_geometry` has degree 1.

    Raises:
        MissingDependency: e3nn is not installed.
    """
    spherical_harmonics = load_object("e3nn.o3:spherical_harmonics", extra="shapes")
    local = (positions[:, None, :, :] - positions[:, :, None, :]) @ matrices
    distance = torch.sqrt(local.square().sum(-1, keepdim=True) + 1e-8)
    found: Tensor = spherical_harmonics(
        list(range(2, degree + 1)), local / distance, normalize=False, normalization="component"
    )
    return found * distance / (distance + 0.5)


def soft_bins(distance: Tensor, centers: Tensor) -> Tensor:
    """Gaussian bins (..., K) of distances (..., 1) about evenly spaced centers (K,), one spacing wide.

    A hard histogram would jump wherever rounding moves a distance over an edge, and no network on it would be equivariant.
    """
    spacing = (centers[-1] - centers[0]) / (len(centers) - 1)
    # Each pass over (B, N, N, K) counts: it is the largest tensor of the network.
    steps = distance / spacing - centers / spacing
    return torch.exp(torch.addcmul(steps.new_zeros(()), steps, steps, value=-1))


@full_precision
def chain_geometry(matrices: Tensor, positions: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Places and axes of the `reach` residues before and after each one, seen from it: (B, N, 24 reach), zero beyond the ends."""
    size = positions.shape[1]
    window = torch.tensor([offset for offset in range(2 * reach + 1) if offset != reach], device=positions.device)
    # Places in the padded chain of each residue's neighbours: one gather where slices would be one a neighbour.
    neighbours = (torch.arange(size, device=positions.device)[:, None] + window).flatten()
    vectors = F.pad(torch.cat((positions[..., None, :] * CHAIN_SCALE, matrices.mT), -2), (0, 0, 0, 0, reach, reach))
    seen = torch.unflatten(vectors.index_select(1, neighbours), 1, (size, -1))
    valid = torch.unflatten(F.pad(mask, (reach, reach)).index_select(1, neighbours), 1, (size, -1))
    origin = F.pad(positions[:, :, None, None, :] * CHAIN_SCALE, (0, 0, 0, 3))
    local = (seen - origin).flatten(2, 3) @ matrices
    local = torch.unflatten(local, 2, (2 * reach, 4)) * valid[..., None, None]
    return local.flatten(2)


@full_precision
def link_geometry(matrices: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """How far the peptide links before and after each residue are from ideal trans ones: (B, N, 10), zero beyond the ends.

    Of a link: the lengths C-N and CA-CA less the ideal ones, the two angles at the bond as projections less the ideal ones, and
    the twist, all in nm: the size of the noise that would explain them.
    """
    carbon = positions + in_world(matrices, ANGSTROM * positions.new_tensor(CARBON).expand_as(positions))
    nitrogen = positions + in_world(matrices, ANGSTROM * positions.new_tensor(NITROGEN).expand_as(positions))
    start, end = positions[:, :-1], positions[:, 1:]
    first, bond, last = carbon[:, :-1] - start, nitrogen[:, 1:] - carbon[:, :-1], end - nitrogen[:, 1:]
    numbers = (
        _length(bond) - ANGSTROM * PEPTIDE_BOND,
        _length(end - start) - ANGSTROM * NEIGHBOURS,
        (first * bond).sum(-1) / (ANGSTROM * ALPHA_CARBON) + ANGSTROM * PEPTIDE_BOND * math.cos(ALPHA_CARBON_NITROGEN),
        (bond * last).sum(-1) / (ANGSTROM * NITROGEN_ALPHA) + ANGSTROM * PEPTIDE_BOND * math.cos(CARBON_NITROGEN_ALPHA),
        (torch.linalg.cross(first, bond) * last).sum(-1) / (ANGSTROM**2 * ALPHA_CARBON * NITROGEN_ALPHA),
    )
    found = torch.stack(numbers, -1) * (mask[:, :-1] & mask[:, 1:])[..., None]
    return torch.cat((F.pad(found, (0, 0, 1, 0)), F.pad(found, (0, 0, 0, 1))), -1)


def _length(vectors: Tensor) -> Tensor:
    return torch.sqrt(vectors.square().sum(-1) + 1e-8)
