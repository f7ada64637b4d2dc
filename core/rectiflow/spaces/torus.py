"""The flat torus: angles, dihedrals, fractional or periodic coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.spaces.riemannian import Riemannian


@dataclass(frozen=True)
class Torus(Riemannian):
    """(R / period Z)^n: states (B, ...) of any shape with entries in [0, period), tangents of the same shape.

    Args:
        period: length of every circle; 2 pi for angles in radians, 1 for fractional coordinates.

    Raises:
        ConfigError: the period is not positive and finite.
    """

    period: float = 2 * math.pi

    def __post_init__(self) -> None:
        if not 0 < self.period < math.inf:
            raise ConfigError(f"the torus has period {self.period}; it must be positive and finite, for example 2 pi")

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x brought into [-period / 2, period / 2]."""
        difference = y - x
        return difference - self.period * torch.round(difference / self.period)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v, wrapped."""
        return self.project(x + v)

    def geodesic(self, x0: Tensor, x1: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """x0 + a log_x0(x1), wrapped, and log_x0(x1)."""
        u = self.log(x0, x1)
        return self.project(x0 + a * u), u

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v: every vector is a tangent."""
        return v

    def separation(self, x: Tensor, y: Tensor) -> Tensor:
        """Lengths of the shortest differences, entry by entry."""
        return self.log(x, y).abs()

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform on [0, period) in every entry."""
        return self.project(self.period * torch.rand(shape, generator=generator, device=device, dtype=dtype))

    def log_prior(self, x: Tensor) -> Tensor:
        """-log(period) for every entry of a sample, (B,)."""
        return x.new_full((len(x),), -x[0].numel() * math.log(self.period))

    def step(self, x: Tensor, v: Tensor, h: float) -> Tensor:
        """x + h v, wrapped."""
        return self.project(torch.add(x, v, alpha=h))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v: the torus is flat."""
        return v

    def pull(self, x: Tensor, v: Tensor, h: float, w: Tensor) -> Tensor:
        """w: the torus is flat."""
        return w

    def project(self, x: Tensor) -> Tensor:
        """x wrapped into [0, period)."""
        wrapped = torch.remainder(x, self.period)
        # The remainder of a tiny negative number rounds up to the period itself.
        return torch.where(wrapped < self.period, wrapped, wrapped - self.period)
