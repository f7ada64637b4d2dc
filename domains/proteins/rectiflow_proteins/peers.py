"""Superposition and rotations as other libraries do them, for `rectiflow bench peers`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rectiflow.benchmarking.contest import OURS, Contest, largest_difference
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow.spaces import quaternions
from rectiflow_proteins.alignment import rmsd

PAIRS, RESIDUES = 64, 128
ROTATIONS = 20_000


def superposition(generator: torch.Generator) -> Contest:
    """RMSD after superposition of 64 pairs of 128 points."""
    first = 10 * torch.randn(PAIRS, RESIDUES, 3, generator=generator, dtype=torch.float64)
    turn = quaternions.to_matrix(
        quaternions.normalize(torch.randn(PAIRS, 1, 4, generator=generator, dtype=torch.float64))
    )
    noise = torch.randn(PAIRS, RESIDUES, 3, generator=generator, dtype=torch.float64)
    second = (turn @ (first + noise)[..., None]).squeeze(-1) + 5
    makers: Makers[Callable[[], Tensor]] = {
        OURS: lambda: lambda: rmsd(first, second),
        "biotite": lambda: _biotite(first, second),
        "roma": lambda: _roma_superposition(first, second),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "domains",
        f"proteins: RMSD of {RESIDUES} points after superposition",
        runs,
        largest_difference,
        tolerance=1e-6,
        units=PAIRS,
        unit="pair",
        missing=missing,
        note="biotite takes one pair at a time, the others a batch",
    )


def _biotite(first: Tensor, second: Tensor) -> Callable[[], Tensor]:
    from biotite import structure

    pairs = list(zip(first.numpy(), second.numpy(), strict=True))

    def measure() -> Tensor:
        return torch.tensor([float(structure.rmsd(y, structure.superimpose(y, x)[0])) for x, y in pairs])

    return measure


def _roma_superposition(first: Tensor, second: Tensor) -> Callable[[], Tensor]:
    import roma

    def measure() -> Tensor:
        rotation, shift = roma.rigid_points_registration(first, second)
        moved = (rotation[:, None] @ first[..., None]).squeeze(-1) + shift[:, None]
        found: Tensor = (moved - second).square().sum(-1).mean(-1).sqrt()
        return found

    return measure


def rotations(generator: torch.Generator) -> Contest:
    """20 000 rotation vectors made quaternions, multiplied by others, and made vectors again."""
    # Short enough that no product turns by more than half a circle, beyond which vectors may come out the other way round.
    a, b = (
        torch.nn.functional.normalize(torch.randn(ROTATIONS, 3, generator=generator), dim=-1)
        * 1.5
        * torch.rand(ROTATIONS, 1, generator=generator)
        for _ in range(2)
    )
    makers: Makers[Callable[[], Tensor]] = {
        OURS: lambda: lambda: quaternions.log(quaternions.multiply(quaternions.exp(a), quaternions.exp(b))),
        "roma": lambda: _roma_rotations(a, b),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "domains",
        "proteins: rotation vectors composed",
        runs,
        largest_difference,
        tolerance=1e-4,
        units=ROTATIONS,
        unit="rotation",
        missing=missing,
    )


def _roma_rotations(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    import roma

    def compose() -> Tensor:
        product = roma.quat_product(roma.rotvec_to_unitquat(a), roma.rotvec_to_unitquat(b))
        vectors: Tensor = roma.unitquat_to_rotvec(product)
        return vectors

    return compose
