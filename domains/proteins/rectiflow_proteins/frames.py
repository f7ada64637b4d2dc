"""Backbone atoms and frames: a residue is its CA and a unit quaternion (w, x, y, z); coordinates are in Angstrom.

The body axes of a residue: the first points from CA to C, the second lies in the plane of N, CA and C on the side of N. Atoms go
back to idealised places (those of alanine), so a round trip loses the spread of the angle at CA: 2.7 degrees in real chains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow.spaces import quaternions

NITROGEN = (-0.525, 1.363, 0.0)
CARBON = (1.526, 0.0, 0.0)
BETA = (-0.529, -0.774, -1.205)
CARBONYL_BOND = 1.23


def frames_from_atoms(atoms: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotations (..., N, 4), w >= 0, and translations (..., N, 3) of atoms (..., N, 3 or more, 3) in the order N, CA, C.

    `mask`, bool (..., N), is True at residues; elsewhere the frame is the identity at the origin. (Jumper et al. 2021,
    supplement 1.8.1, with C on the positive first axis.)
    """
    nitrogen, alpha, carbon = atoms[..., 0, :], atoms[..., 1, :], atoms[..., 2, :]
    first = unit(carbon - alpha)
    towards = nitrogen - alpha
    second = unit(towards - (towards * first).sum(-1, keepdim=True) * first)
    matrix = torch.stack((first, second, torch.linalg.cross(first, second)), -1)
    if mask is not None:
        matrix = torch.where(mask[..., None, None], matrix, torch.eye(3, dtype=atoms.dtype, device=atoms.device))
        alpha = alpha * mask[..., None]
    return quaternions.from_matrix(matrix), alpha


def atoms_from_frames(rotations: Tensor, translations: Tensor) -> Tensor:
    """Idealised N, CA and C, (..., N, 3, 3), of rotations (..., N, 4) and translations (..., N, 3)."""
    nitrogen, carbon = _placed(rotations, translations, NITROGEN), _placed(rotations, translations, CARBON)
    return torch.stack((nitrogen, translations, carbon), -2)


def beta_carbons(rotations: Tensor, translations: Tensor) -> Tensor:
    """Idealised CB, (..., N, 3), as every residue but glycine has it."""
    return _placed(rotations, translations, BETA)


def with_oxygens(atoms: Tensor, mask: Tensor | None = None) -> Tensor:
    """N, CA, C and O, (..., N, 4, 3), of N, CA and C (..., N, 3, 3).

    O lies 1.23 A from C, in the peptide plane, where the bonds from CA and from the next N leave it room; the last residue (the
    last of `mask`, bool (..., N)) has no next N: there it is turned towards its own.
    """
    nitrogen, alpha, carbon = atoms.unbind(-2)
    outward = unit(carbon - alpha)
    bisector = outward + unit(carbon - torch.roll(nitrogen, -1, -2))
    followed = torch.ones(atoms.shape[:-2], dtype=torch.bool, device=atoms.device) if mask is None else mask.clone()
    followed = torch.roll(followed, -1, -1)
    followed[..., -1] = False
    direction = torch.where(followed[..., None], bisector, outward + unit(nitrogen - alpha))
    return torch.cat((atoms, (carbon + CARBONYL_BOND * unit(direction))[..., None, :]), -2)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) at length one; zero vectors, which stand in padding, stay zero."""
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-12)


def _placed(rotations: Tensor, translations: Tensor, place: tuple[float, float, float]) -> Tensor:
    local = torch.tensor(place, dtype=translations.dtype, device=translations.device)
    return quaternions.rotate(rotations, local.expand_as(translations)) + translations
