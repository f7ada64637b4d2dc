"""What lies around points of a surface, in features that turn with the shape: spherical harmonics of neighbours (e3nn)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.nn.layers import linear

REACH = 0.35  # radius of a neighbourhood; tokens are about 0.25 apart
_SHELLS = 4
_DEGREES = (0, 1, 2)
_SIZES = [2 * degree + 1 for degree in _DEGREES]


def moments(at: Tensor, cloud: Tensor, normals: Tensor) -> list[Tensor]:
    """Features of degree 0, 1 and 2, (B, T, 2 shells, 2 l + 1) each, of points (B, T, 3) in a cloud with normals (B, P, 3).

    Neighbours within `REACH` are weighted by shells of distance and expanded in real spherical harmonics; so are their normals,
    each weighted by its shell too. Where the cloud and its normals turn by R, features of degree l turn by D_l(R).
    """
    from e3nn.o3 import spherical_harmonics  # takes seconds to import

    offsets = cloud[:, None] - at[:, :, None]
    middles = torch.arange(_SHELLS, device=at.device, dtype=at.dtype) * (REACH / (_SHELLS - 1))
    shells = (1 - (offsets.norm(dim=-1, keepdim=True) - middles).abs() * ((_SHELLS - 1) / REACH)).clamp(min=0)
    shells = shells / shells.sum(2, keepdim=True).sum(-1, keepdim=True)
    of_places = spherical_harmonics(list(_DEGREES), offsets, normalize=True, normalization="component")
    of_normals = spherical_harmonics(list(_DEGREES), normals, normalize=True, normalization="component")
    both = torch.cat(
        [
            torch.einsum("btps,btpm->btsm", shells, of_places),
            torch.einsum("btps,bpm->btsm", shells, of_normals),
        ],
        dim=2,
    )
    return list(torch.split(both, _SIZES, dim=-1))


class TurningFeatures(nn.Module):
    """Features of points by their neighbourhoods: mixed degree by degree, and gated by what no rotation changes.

    The gates are a network of the moments' inner products (power spectra and the angles between places and normals), so that
    features of degree l still turn by D_l(R); `forward` flattens them to a vector a point.
    """

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        channels = 2 * _SHELLS
        self.mixed = width // sum(_SIZES)
        invariants = channels + 2 * channels * (channels + 1) // 2
        self.input = linear(invariants, width, generator=generator)
        self.gates = linear(width, len(_SIZES) * self.mixed, generator=generator)
        # Without a bias, which would not turn.
        self.mix = nn.ModuleList(_mixing(channels, self.mixed, generator) for _ in _SIZES)
        self.outputs = self.mixed * sum(_SIZES)

    def parts(self, at: Tensor, cloud: Tensor, normals: Tensor) -> list[Tensor]:
        """Features by degree, (B, T, channels, 2 l + 1)."""
        found = moments(at, cloud, normals)
        rows, columns = torch.triu_indices(2 * _SHELLS, 2 * _SHELLS, device=at.device)
        products = [(part @ part.mT)[..., rows, columns] for part in found[1:]]
        hidden = F.silu(self.input(torch.cat([found[0][..., 0], *products], -1)))
        gates = self.gates(hidden).unflatten(-1, (len(_SIZES), self.mixed, 1))
        return [
            layer(part.mT).mT * gates[..., degree, :, :]
            for degree, (layer, part) in enumerate(zip(self.mix, found, strict=True))
        ]

    def forward(self, at: Tensor, cloud: Tensor, normals: Tensor) -> Tensor:
        """Features (B, T, outputs) of points (B, T, 3), of a cloud and its normals (B, P, 3)."""
        return torch.cat([part.flatten(2) for part in self.parts(at, cloud, normals)], -1)


def _mixing(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = linear(inputs, outputs, generator=generator)
    layer.register_parameter("bias", None)
    return layer
