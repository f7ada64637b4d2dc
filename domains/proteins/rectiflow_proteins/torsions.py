"""Chains from torsion angles and back (NeRF), batched: one rigid motion a residue, multiplied up along the chain.

Torsions are (..., N, 3) in radians: phi, psi and omega of each residue, omega being the turn about the bond to the next one.
The first phi, the last psi and the last omega move nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rectiflow_proteins.frames import CARBON, NITROGEN, unit

PEPTIDE_BOND = 1.329
ALPHA_CARBON_NITROGEN = math.radians(116.6)
CARBON_NITROGEN_ALPHA = math.radians(121.7)
NITROGEN_ALPHA = math.hypot(*NITROGEN)
ALPHA_CARBON = CARBON[0]
NITROGEN_ALPHA_CARBON = math.acos(NITROGEN[0] / NITROGEN_ALPHA)


def atoms_from_torsions(torsions: Tensor) -> Tensor:
    """N, CA and C, (..., N, 3, 3), of a chain with these torsions (..., N, 3) and ideal bonds and angles.

    The first residue has its CA at the origin and the identity as its frame. (Parsons et al. 2005, natural extension of
    reference frames.)
    """
    motion, shift = _steps(torsions[..., :-1, 1], torsions[..., :-1, 2], torsions[..., 1:, 0])
    motion, shift = _products(motion, shift)
    eye = torch.eye(3, dtype=torsions.dtype, device=torsions.device)
    motion = torch.cat((eye.expand(*motion.shape[:-3], 1, 3, 3), motion), -3)
    shift = torch.cat((torch.zeros_like(shift[..., :1, :]), shift), -2)
    local = torch.tensor((NITROGEN, (0.0, 0.0, 0.0), CARBON), dtype=torsions.dtype, device=torsions.device)
    return torch.einsum("...ij,aj->...ai", motion, local) + shift[..., None, :]


def torsions_of(atoms: Tensor) -> Tensor:
    """Phi, psi and omega, (..., N, 3), in (-pi, pi], of atoms (..., N, 3 or more, 3); NaN where the chain has ended."""
    nitrogen, alpha, carbon = atoms[..., 0, :], atoms[..., 1, :], atoms[..., 2, :]
    here, following = slice(None, -1), slice(1, None)
    phi = dihedral(
        carbon[..., here, :], nitrogen[..., following, :], alpha[..., following, :], carbon[..., following, :]
    )
    psi = dihedral(nitrogen[..., here, :], alpha[..., here, :], carbon[..., here, :], nitrogen[..., following, :])
    omega = dihedral(alpha[..., here, :], carbon[..., here, :], nitrogen[..., following, :], alpha[..., following, :])
    end = torch.full_like(phi[..., :1], math.nan)
    return torch.stack((torch.cat((end, phi), -1), torch.cat((psi, end), -1), torch.cat((omega, end), -1)), -1)


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Angle (...) in (-pi, pi] between the planes abc and bcd of points (..., 3): positive when d is clockwise seen along bc."""
    axis = unit(c - b)
    first, last = torch.linalg.cross(b - a, axis), torch.linalg.cross(axis, d - c)
    return torch.atan2((torch.linalg.cross(first, last) * axis).sum(-1), (first * last).sum(-1))


def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Angle (...) in [0, pi] at b of points (..., 3)."""
    to_a, to_c = a - b, c - b
    sine: Tensor = torch.linalg.vector_norm(torch.linalg.cross(to_a, to_c), dim=-1)
    return torch.atan2(sine, (to_a * to_c).sum(-1))


def _steps(psi: Tensor, omega: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (..., 3, 3) and shift (..., 3) from the frame of a residue to the next one's."""
    nitrogen, alpha, carbon = (
        torch.tensor(place, dtype=psi.dtype, device=psi.device).expand(*psi.shape, 3)
        for place in (NITROGEN, (0.0, 0.0, 0.0), CARBON)
    )
    next_nitrogen = place_atom(nitrogen, alpha, carbon, PEPTIDE_BOND, ALPHA_CARBON_NITROGEN, psi)
    next_alpha = place_atom(alpha, carbon, next_nitrogen, NITROGEN_ALPHA, CARBON_NITROGEN_ALPHA, omega)
    next_carbon = place_atom(carbon, next_nitrogen, next_alpha, ALPHA_CARBON, NITROGEN_ALPHA_CARBON, phi)
    first = unit(next_carbon - next_alpha)
    towards = next_nitrogen - next_alpha
    second = unit(towards - (towards * first).sum(-1, keepdim=True) * first)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -1), next_alpha


def place_atom(a: Tensor, b: Tensor, c: Tensor, bond: float, bend: float, torsion: Tensor) -> Tensor:
    """The point d (..., 3) at distance `bond` from c, with angle `bend` at c in bcd and the dihedral `torsion` (...) of abcd."""
    axis = unit(c - b)
    normal = unit(torch.linalg.cross(b - a, axis))
    sideways = torch.linalg.cross(normal, axis)
    turned = torch.cos(torsion)[..., None] * sideways + torch.sin(torsion)[..., None] * normal
    place: Tensor = c + bond * (math.sin(bend) * turned - math.cos(bend) * axis)
    return place


def _products(motion: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Products of all motions up to each one, in logarithmically many rounds."""
    span, length = 1, motion.shape[-3]
    while span < length:
        earlier, later = motion[..., :-span, :, :], motion[..., span:, :, :]
        moved = (earlier @ shift[..., span:, :, None]).squeeze(-1) + shift[..., :-span, :]
        motion = torch.cat((motion[..., :span, :, :], earlier @ later), -3)
        shift = torch.cat((shift[..., :span, :], moved), -2)
        span *= 2
    return motion, shift
