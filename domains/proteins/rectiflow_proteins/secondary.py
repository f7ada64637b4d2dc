"""Secondary structure from CA positions, by P-SEA (Labesse et al. 1997) as biotite has it."""

from __future__ import annotations

from collections.abc import Sequence

import biotite.structure
import numpy as np
import torch
from torch import Tensor

STATES = ("coil", "helix", "strand")
_LETTERS = {"c": 0, "a": 1, "b": 2}


def secondary_structure(chains: Sequence[Tensor]) -> list[Tensor]:
    """One state a residue, (N,) int64 into `STATES`, of each chain's CA positions (N, 3), Angstrom."""
    return [torch.tensor([_LETTERS[letter] for letter in biotite.structure.annotate_sse(_alphas(c))]) for c in chains]


def _alphas(places: Tensor) -> biotite.structure.AtomArray:
    array = biotite.structure.AtomArray(len(places))
    array.coord = places.detach().cpu().float().numpy()
    array.atom_name = np.full(len(places), "CA")
    array.res_name = np.full(len(places), "ALA")
    array.res_id = np.arange(1, len(places) + 1)
    return array
