"""Shapes as sets of codes, each anchored to a point of the surface (anchored vector sets), by an autoencoder of distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Shape, State
from rectiflow.errors import ConfigError
from rectiflow_shapes.autoencoding import LearnedRepresentation
from rectiflow_shapes.extraction import evaluate_coarse_to_fine
from rectiflow_shapes.grids import BAND
from rectiflow_shapes.set_autoencoder import HEADS, SetAutoencoder
from rectiflow_shapes.shape_data import ShapeData

_BATCH = 32
_QUERIES = 2048  # points a time: more leave the cache of a core, at twice the time
_COARSE = 4  # nodes of the fine grid a step of the coarse one


class LatentSet(LearnedRepresentation):
    """A set of tokens: `codes` (tokens, channels), and `positions` (tokens, 3) of their points when they are anchored.

    The plain form (`anchored=False`, 3DShape2VecSet, arXiv 2301.11445) has codes alone; in the same time it learns far less.

    Args:
        tokens, channels: of the set.
        width, depth, anchored, kl, normal, eikonal, turning: see `SetAutoencoder`.
        resolution: nodes a side of decoded fields, a multiple of 4 and one more.
        run, training: see `LearnedRepresentation`.

    Raises:
        ConfigError: a value out of range.
    """

    ordered = False
    arrays = ("cloud", "normals", "near", "distance", "grid")

    def __init__(
        self,
        tokens: int = 64,
        channels: int = 16,
        width: int = 128,
        depth: int = 2,
        anchored: bool = True,
        kl: float = 3e-4,
        normal: float = 0.05,
        eikonal: float = 0.01,
        turning: bool = False,
        resolution: int = 65,
        run: str = "",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        if min(tokens, channels, depth) < 1 or width % HEADS or resolution % _COARSE != 1:
            raise ConfigError(
                f"a latent set got tokens={tokens}, channels={channels}, depth={depth}, width={width}, resolution={resolution}; "
                f"allowed: at least 1, a width that {HEADS} divides, a resolution of one more than a multiple of {_COARSE}"
            )
        self.tokens, self.channels, self.anchored, self.resolution = tokens, channels, anchored, resolution
        settings: dict[str, Any] = {"channels": channels, "width": width, "depth": depth, "anchored": anchored}
        settings |= {"kl": kl, "normal": normal, "eikonal": eikonal, "tokens": tokens, "turning": turning}
        network = SetAutoencoder(**settings, generator=torch.Generator().manual_seed(0))
        super().__init__(network, run, training or {}, settings)

    @property
    def shape(self) -> Shape:
        """{"codes": (tokens, channels), "positions": (tokens, 3)}; without anchors the codes alone."""
        codes = (self.tokens, self.channels)
        return {"codes": codes, "positions": (self.tokens, 3)} if self.anchored else codes

    def measure(self, data: ShapeData) -> dict[str, Tensor]:
        """Mean and standard deviation of each channel, and of positions."""
        codes, positions = self._encoded(data)
        codes = codes.flatten(0, 1)
        return {
            "mean": codes.mean(0),
            "deviation": codes.std(0).clamp(min=1e-3),
            "position": positions.square().mean().sqrt(),
        }

    def encode(self, data: ShapeData) -> State:
        """States of shapes, normalised."""
        codes, positions = self._encoded(data)
        codes = (codes - self.statistics["mean"]) / self.statistics["deviation"]
        return {"codes": codes, "positions": positions / self.statistics["position"]} if self.anchored else codes

    def decode(self, x: State) -> Tensor:
        """Fields (B, R, R, R) in units of the band: everywhere on a coarse grid, and finely where that is near the surface."""
        if self.anchored != isinstance(x, dict):
            raise ConfigError(
                f"this latent set is {'' if self.anchored else 'not '}anchored; its state is of the other form"
            )
        codes = x["codes"] if isinstance(x, dict) else x
        codes = codes * self.statistics["deviation"] + self.statistics["mean"]
        places = x["positions"] if isinstance(x, dict) else codes.new_zeros(*codes.shape[:2], 3)
        positions = places * self.statistics["position"]
        fields = [self._field(*parts) for parts in zip(codes, positions, strict=True)]
        return torch.stack(fields) if fields else codes.new_zeros(0, *(self.resolution,) * 3)

    @torch.no_grad()
    def _field(self, code: Tensor, position: Tensor) -> Tensor:
        network = self.network
        tokens = network.tokens(code[None], position[None])  # type: ignore[operator]

        def values(points: Tensor) -> Tensor:
            found: Tensor = network.distances(tokens, position[None], points[None])[0]  # type: ignore[operator]
            return found

        coarse = (self.resolution - 1) // _COARSE + 1
        # Values are in units of the band, at which they end.
        return evaluate_coarse_to_fine(values, self.resolution, coarse=coarse, band=1 / BAND, limit=1.0, chunk=_QUERIES)

    def _encoded(self, data: ShapeData) -> tuple[Tensor, Tensor]:
        found = []
        with torch.no_grad():
            for start in range(0, len(data), _BATCH):
                rows = slice(start, start + _BATCH)
                cloud, normals = data.array("cloud", rows), data.array("normals", rows)
                found.append(self.network.encode(cloud, normals))  # type: ignore[operator]
        codes, positions = zip(*found, strict=True)
        return torch.cat(codes), torch.cat(positions)
