"""A chain that keeps out of itself: samplers ask for estimates whose CA are not nearer to each other than those of chains.

What a network is trained on never runs through itself, so it does not learn the way out of a state that does; early estimates,
averages over many chains, lead into such states. Moving the estimate apart is enough, the next evaluation mends its links.
"""

from __future__ import annotations

import torch
from torch import Tensor

SEPARATION = 3
"""Residues along the chain from which on two CA count as apart."""
ROUNDS = 6
SPREAD = 4.0
"""Residues along the chain, one standard deviation, over which a push is shared: links bend instead of breaking."""


def keep_clear(places: Tensor, mask: Tensor, distance: float) -> Tensor:
    """Places of CA moved apart until next to none, three or more residues apart, are nearer to each other than a distance.

    In each of six rounds a residue with such neighbours is pushed by the mean over them of half of what is missing, straight
    away from them, and a push is shared with the residues beside it along the chain. Turns and shifts of the whole chain commute
    with it, and where no two are too near the places stay as they are.

    Args:
        places: (B, N, 3).
        mask: bool (B, N), True at residues; the others stay.
        distance: in the unit of the places.
    """
    residue = torch.arange(places.shape[1], device=places.device)
    along = residue[None, :] - residue[:, None]
    apart = (along.abs() >= SEPARATION) & mask[:, :, None] & mask[:, None, :]
    share = torch.exp(-0.5 * (along / SPREAD).square()).to(places) * mask[:, None]
    for _ in range(ROUNDS):
        ways = places[:, :, None] - places[:, None]
        gaps = (ways.square().sum(-1) + 1e-12).sqrt()
        short = (distance - gaps).clamp(min=0) * apart
        near = (short > 0).to(places)
        pushes = 0.5 * torch.einsum("bij,bijc->bic", short / gaps, ways) / near.sum(2).clamp(min=1)[..., None]
        pushed = near.amax(2)
        weight = torch.einsum("bij,bj->bi", share, pushed).clamp(min=1)
        places = places + mask[..., None] * (share @ pushes) / weight[..., None]
    return places
