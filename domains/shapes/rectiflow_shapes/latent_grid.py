"""A truncated distance grid as a coarse grid of codes, by an autoencoder whose decoder forgives what a flow gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from rectiflow.batch import Shape, State
from rectiflow.errors import ConfigError
from rectiflow.nn.layers import embedding, linear
from rectiflow_shapes.autoencoding import LearnedRepresentation
from rectiflow_shapes.grids import RESOLUTION
from rectiflow_shapes.network import PlainBlock
from rectiflow_shapes.representation import tensor_state
from rectiflow_shapes.shape_data import ShapeData

_HEADS = 4
_SMOOTHING = 24
_EDGE = 8  # numbers a half-resolution cell: its 2^3 nodes
_NEAR = 5.0
_BATCH = 64


class GridAutoencoder(nn.Module):
    """Patches through a transformer to a code a patch, and back; two convolutions smooth what meets at their borders.

    Args:
        side: patches along an axis; divides 16.
        channels: numbers a code has.
        width: of the transformer.
        noise: standard deviation of what is added to codes in training; with `kl` it bounds what a code can say.
        kl: weight of the divergence of N(code, noise^2) from N(0, 1), a mean over numbers.
    """

    def __init__(
        self, side: int, channels: int, width: int, noise: float, kl: float, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        patch = RESOLUTION // side
        self.side, self.inner, self.noise, self.kl = side, patch // 2, noise, kl

        def block() -> PlainBlock:
            return PlainBlock(width, _HEADS, qk_norm=True, generator=generator)

        self.read = linear(patch**3, width, generator=generator)
        self.read_place = embedding(side**3, width, generator=generator)
        self.encoder = nn.Sequential(block())
        self.code = linear(width, channels, generator=generator)
        self.expand = linear(channels, width, generator=generator)
        self.place = embedding(side**3, width, generator=generator)
        self.decoder = nn.Sequential(block(), block(), block())
        self.write = linear(width, self.inner**3 * _EDGE, generator=generator)
        self.smooth = nn.Sequential(
            _convolution(_EDGE, _SMOOTHING, generator), nn.SiLU(), _convolution(_SMOOTHING, _EDGE, generator)
        )

    def encode(self, grids: Tensor) -> Tensor:
        """Codes (B, side^3, channels) of grids (B, 32, 32, 32)."""
        patches = rearrange(grids, "b (x p) (y q) (z r) -> b (x y z) (p q r)", x=self.side, y=self.side, z=self.side)
        codes: Tensor = self.code(self.encoder(self.read(patches) + self.read_place.weight))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Grids (B, 32, 32, 32) of codes."""
        tokens = self.write(self.decoder(self.expand(codes) + self.place.weight))
        cells = rearrange(
            tokens,
            "b (x y z) (p q r c) -> b c (x p) (y q) (z r)",
            x=self.side,
            y=self.side,
            p=self.inner,
            q=self.inner,
            r=self.inner,
        )
        cells = cells + self.smooth(cells)
        grids: Tensor = rearrange(cells, "b (p q r) x y z -> b (x p) (y q) (z r)", p=2, q=2, r=2)
        return grids

    def forward(self, arrays: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Terms of the loss of grids (B, 32, 32, 32) under "grid"; what is near the surface counts five times."""
        grids = arrays["grid"]
        codes = self.encode(grids)
        noise = self.noise * torch.randn(codes.shape, generator=generator, device=codes.device, dtype=codes.dtype)
        error = self.decode(codes + noise) - grids
        near = torch.where(grids.abs() < 1, _NEAR, 1.0)
        return {
            "grid": (near * (error.abs() + error.square())).mean(),
            "kl": self.kl * codes.square().mean() / 2,
        }


class LatentGrid(LearnedRepresentation):
    """Codes of the patches of a distance grid, one token each, every one in its place (the form of TRELLIS's first stage).

    Args:
        side: patches along an axis, 2, 4, 8 or 16.
        channels: numbers a token.
        width: of the autoencoder, a multiple of 4.
        noise, kl: see `GridAutoencoder`.
        run, training: see `LearnedRepresentation`.

    Raises:
        ConfigError: a value out of range.
    """

    ordered = True
    arrays = ("grid",)

    def __init__(
        self,
        side: int = 4,
        channels: int = 16,
        width: int = 96,
        noise: float = 0.1,
        kl: float = 1e-3,
        run: str = "",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        if side not in (2, 4, 8, 16) or channels < 1 or width < _HEADS or noise < 0 or kl < 0:
            raise ConfigError(
                f"a latent grid got side={side}, channels={channels}, width={width}, noise={noise}, kl={kl}; allowed: side 2, 4, "
                "8 or 16, channels of at least 1, a width of at least 4, and neither of the others negative"
            )
        self.side, self.channels = side, channels
        settings = {"side": side, "channels": channels, "width": width, "noise": noise, "kl": kl}
        network = GridAutoencoder(side, channels, width, noise, kl, generator=torch.Generator().manual_seed(0))
        super().__init__(network, run, training or {}, settings)

    @property
    def shape(self) -> Shape:
        """(side^3, channels)."""
        return (self.side**3, self.channels)

    def measure(self, data: ShapeData) -> dict[str, Tensor]:
        """Mean and standard deviation of each channel."""
        codes = self._codes(data).flatten(0, 1)
        return {"mean": codes.mean(0), "deviation": codes.std(0).clamp(min=1e-3)}

    def encode(self, data: ShapeData) -> Tensor:
        """States (N, side^3, channels)."""
        return (self._codes(data) - self.statistics["mean"]) / self.statistics["deviation"]

    def decode(self, x: State) -> Tensor:
        """Fields (B, 32, 32, 32) in units of the band."""
        codes = tensor_state(x) * self.statistics["deviation"] + self.statistics["mean"]
        with torch.no_grad():
            parts = [self.network.decode(part) for part in torch.split(codes, _BATCH)]  # type: ignore[operator]
        return torch.cat(parts) if parts else codes.new_zeros(0, RESOLUTION, RESOLUTION, RESOLUTION)

    def _codes(self, data: ShapeData) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [
                    self.network.encode(data.array("grid", slice(start, start + _BATCH)))  # type: ignore[operator]
                    for start in range(0, len(data), _BATCH)
                ]
            )


def _convolution(inputs: int, outputs: int, generator: torch.Generator) -> nn.Conv3d:
    layer = nn.Conv3d(inputs, outputs, 3, padding=1, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
