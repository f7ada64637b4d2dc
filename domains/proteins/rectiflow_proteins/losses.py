"""Loss terms beyond flow matching: estimates of data should be chains that can be, also where few steps will end on them.

Data have next to none of either. Early estimates are averages over many structures, which need be neither, so late ones count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow_proteins.geometry import ANGSTROM, link_geometry, rotation_matrices

GATE = 0.25
LINK_WEIGHT, LINK_MARGIN = 4.0, 0.05
# Chains cross early, where the noise is large, so that clashes count for much there and for less in the end.
CLASH_WEIGHT, CLASH_MARGIN = 20.0, 0.2
CLASH_RADIUS = 3.7


def link_loss(estimate: dict[str, Tensor], t: Tensor, mask: Tensor) -> Tensor:
    """Four times the mean over links of their squared faults, nm, over (1 - t + 0.05)^2, for t > 0.25: a scalar.

    Args:
        estimate: translations (B, N, 3) in Angstrom and rotations (B, N, 4) that the network expects at t = 1.
        t: (B,) times.
        mask: bool (B, N), True at residues.
    """
    faults = link_geometry(
        rotation_matrices(estimate["rotations"]), ANGSTROM * estimate["translations"], mask
    )  # each link counts twice, at both of its ends
    squares = faults.square().sum((1, 2)) / (2 * (mask.sum(1) - 1).clamp(min=1))
    return LINK_WEIGHT * (_late(t, LINK_MARGIN) * squares).mean()


def clash_loss(estimate: dict[str, Tensor], t: Tensor, mask: Tensor) -> Tensor:
    """Twenty times the squared shortfalls, nm, of CA three or more residues apart from 3.7 A, a residue: a scalar.

    Over (1 - t + 0.2)^2 and for t > 0.25; arguments as of `link_loss`.
    """
    places = ANGSTROM * estimate["translations"]
    residue = torch.arange(places.shape[1], device=places.device)
    apart = (residue[None, :] - residue[:, None] >= 3) & mask[:, :, None] & mask[:, None, :]
    squares = (places[:, :, None] - places[:, None]).square().sum(-1)
    # Beyond the radius nothing is felt, and a root of zero has no gradient.
    close = apart & (squares < (ANGSTROM * CLASH_RADIUS) ** 2)
    short = ANGSTROM * CLASH_RADIUS - torch.sqrt(torch.where(close, squares, 1) + 1e-8)
    crowded = (short.square() * close).sum((1, 2)) / mask.sum(1)
    return CLASH_WEIGHT * (_late(t, CLASH_MARGIN) * crowded).mean()


def _late(t: Tensor, margin: float) -> Tensor:
    return (t > GATE) / (1 - t + margin).square()
