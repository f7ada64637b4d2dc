"""A shape seen from any side: 40 numbers that rotations leave alone, for Frechet distances between sets of shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow.errors import DataError

_SHELLS = 8
_DEGREES = range(5)
_REACH = 1.6  # radius of the outermost shell's middle: more than half the diagonal of any shape of size 1.8


def power_spectrum(points: Tensor) -> Tensor:
    """Rotation-invariant descriptors (B, 40) of clouds (B, P, 3), in the type of the points.

    A cloud is centred on its mean; its density on 8 radial shells is expanded in real spherical harmonics of degree 0 to 4
    (e3nn's), and each entry is the norm of the coefficients of one shell and degree, divided by the root of their number.
    Kazhdan, Funkhouser and Rusinkiewicz 2003 (doi 10.2312/SGP/SGP03/156-165), with shells that overlap linearly.

    Raises:
        DataError: the shape is not (B, P, 3).
    """
    if points.ndim != 3 or points.shape[2] != 3 or points.shape[1] == 0:
        raise DataError(f"clouds have shape {tuple(points.shape)}; they must be (B, P, 3)")
    from e3nn.o3 import spherical_harmonics  # takes seconds to import

    centred = points - points.mean(1, keepdim=True)
    radius = centred.norm(dim=-1)
    middles = torch.arange(_SHELLS, device=points.device, dtype=points.dtype) * (_REACH / (_SHELLS - 1))
    shells = (1 - (radius[..., None] - middles).abs() * ((_SHELLS - 1) / _REACH)).clamp(min=0)
    harmonics = spherical_harmonics(list(_DEGREES), centred, normalize=True, normalization="component")
    coefficients = torch.einsum("bps,bpm->bsm", shells, harmonics) / points.shape[1]
    sizes = [2 * degree + 1 for degree in _DEGREES]
    powers = [part.square().mean(-1) for part in torch.split(coefficients, sizes, dim=-1)]
    return torch.stack(powers, dim=-1).clamp(min=0).sqrt().flatten(1)
