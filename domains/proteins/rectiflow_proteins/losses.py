"""A loss term beyond flow matching: estimates of data should have sound peptide links, also where few steps will end on them."""

from __future__ import annotations

from torch import Tensor

from rectiflow_proteins.geometry import ANGSTROM, link_geometry, rotation_matrices

GATE = 0.25
WEIGHT = 1.0
LEAST_NOISE = 0.05


def link_loss(estimate: dict[str, Tensor], t: Tensor, mask: Tensor) -> Tensor:
    """Mean over links of their squared faults, nm, over (1 - t + 0.05)^2: a scalar.

    Early estimates are averages over many structures, which need not be sound: only t > 0.25 counts.

    Args:
        estimate: translations (B, N, 3) in Angstrom and rotations (B, N, 4) that the network expects at t = 1.
        t: (B,) times.
        mask: bool (B, N), True at residues.
    """
    faults = link_geometry(
        rotation_matrices(estimate["rotations"]), ANGSTROM * estimate["translations"], mask
    )  # each link counts twice, at both of its ends
    squares = faults.square().sum((1, 2)) / (2 * (mask.sum(1) - 1).clamp(min=1))
    weight = (t > GATE) / (1 - t + LEAST_NOISE).square()
    return WEIGHT * (weight * squares).mean()
