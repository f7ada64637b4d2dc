"""Loss terms beyond flow matching: where the atoms of the estimate are, and how far from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow_proteins.frames import atoms_from_frames

ANGSTROM = 0.1
NEAR = 0.8
CAP = 5.0


def atom_losses(
    estimate: dict[str, Tensor], data: dict[str, Tensor], t: Tensor, mask: Tensor, *, gate: float, margin: float
) -> tuple[Tensor, Tensor]:
    """Mean squared errors, in nm, of backbone atoms and of their distances, each a scalar.

    Atoms are weighted by 1 / (1 - t)^2, like the flow's own loss; distances (of atoms less than 8 A apart in the data) are not.
    Both count only for t > gate, where the estimate is a structure rather than an average of many (Yue et al. 2025, arXiv
    2502.14637, section 4), and are softly capped per sample, so that no gradient vanishes.

    Args:
        estimate: translations (B, N, 3) in Angstrom and rotations (B, N, 4), centred.
        data: the same of the truth.
        t: (B,) times.
        mask: bool (B, N).
        gate: time in [0, 1] before which nothing is asked.
        margin: the weight is at most 1 / margin^2.
    """
    guess, truth = (
        ANGSTROM * atoms_from_frames(frames["rotations"], frames["translations"]).flatten(1, 2)
        for frames in (estimate, data)
    )
    present = mask[:, :, None].expand(-1, -1, 3).flatten(1).to(t.dtype)
    residues = mask.sum(1).to(t.dtype)
    late = (t > gate).to(t.dtype)
    weight = 1 / (1 - t).clamp(min=margin).square()
    atoms = ((guess - truth).square().sum(-1) * present).sum(1) / (3 * residues) * weight
    true_distance = _distances(truth)
    near = (true_distance < NEAR) * present[:, :, None] * present[:, None, :]
    squares = (_distances(guess) - true_distance).square() * near
    distances = squares.sum((1, 2)) / near.sum((1, 2)).clamp(min=1)
    return (late * softly_capped(atoms)).mean(), (late * softly_capped(distances)).mean()


def softly_capped(value: Tensor, cap: float = CAP) -> Tensor:
    """cap (sqrt(1 + 2 x / cap) - 1): x while it is small, its root when it is large, with a gradient everywhere."""
    return 2 * value / (torch.sqrt(1 + 2 * value / cap) + 1)


def _distances(points: Tensor) -> Tensor:
    difference = points[:, :, None] - points[:, None]
    return torch.sqrt(difference.square().sum(-1) + 1e-8)
