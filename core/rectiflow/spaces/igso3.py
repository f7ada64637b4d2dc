"""The isotropic Gaussian on SO(3): where Brownian motion from the identity is after time sigma^2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError
from rectiflow.spaces import quaternions

GRID = 8193
"""Points of the tabulated distribution function."""


@dataclass(frozen=True)
class IGSO3:
    """Rotations by a uniform axis and an angle w in [0, pi], as unit quaternions, of angle density (arXiv 2302.02277)

    (1 - cos w) / pi sum_l (2 l + 1) exp(-l (l + 1) sigma^2 / 2) sin((l + 1/2) w) / sin(w / 2).

    Small sigma gives the Maxwell law of scale sigma, large sigma the uniform rotation. An instance is also a flow's source.

    Args:
        sigma: standard deviation per axis in radians, positive.

    Raises:
        ConfigError: sigma is not positive and finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"IGSO3 has sigma {self.sigma}; it must be positive and finite")

    def density(self, angle: Tensor) -> Tensor:
        """Density of the rotation angle at angles in [0, pi], any shape."""
        w = angle.double()[..., None]
        if self.sigma > 1:
            orders = torch.arange(math.ceil(12 / self.sigma) + 1, dtype=torch.float64, device=angle.device)
            decay = torch.exp(-orders * (orders + 1) * self.sigma**2 / 2)
            series = ((2 * orders + 1) * decay * torch.sin((orders + 0.5) * w)).sum(-1)
        else:
            # The same sum after Poisson summation over the turns 2 pi k: few terms suffice however small sigma is.
            turns = torch.arange(-2, 3, dtype=torch.float64, device=angle.device)
            unrolled = (w + 2 * math.pi * turns) / self.sigma
            signs = 1 - 2 * (turns.abs() % 2)
            series = (signs * unrolled * torch.exp(-unrolled.square() / 2)).sum(-1)
            series = series * math.exp(self.sigma**2 / 8) * math.sqrt(2 * math.pi) / self.sigma**2
        return (2 / math.pi * torch.sin(w[..., 0] / 2) * series).clamp(min=0).to(angle.dtype)

    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Unit quaternions of the given shape (B, ..., 4), the angles by inversion of the distribution function.

        Raises:
            ConfigError: the last axis does not have length 4.
        """
        if len(shape) < 2 or shape[-1] != 4:
            raise ConfigError(f"rotations have shape (B, ..., 4), quaternions (w, x, y, z); got {tuple(shape)}")
        double = torch.float64
        uniform = torch.rand((*shape[:-1], 1), generator=generator, device=device, dtype=double)
        normal = torch.randn((*shape[:-1], 3), generator=generator, device=device, dtype=double)
        angle, axis = self._quantile(uniform), quaternions.normalize(normal)
        return quaternions.exp(angle * axis).to(dtype or torch.get_default_dtype())

    def __call__(
        self,
        shape: tuple[int, ...],
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """`sample`, as a flow calls its source; conditions play no part."""
        return self.sample(shape, generator, device=device, dtype=dtype)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """Angles and the distribution function there, which ends at 1 (beyond 12 sigma nothing is left)."""
        angles = torch.linspace(0, min(math.pi, 12 * self.sigma), GRID, dtype=torch.float64)
        cumulative = torch.cumulative_trapezoid(self.density(angles), angles)
        return angles, torch.cat((torch.zeros(1, dtype=torch.float64), cumulative / cumulative[-1]))

    def _quantile(self, probability: Tensor) -> Tensor:
        angles, cumulative = (part.to(probability.device) for part in self._table)
        right = torch.searchsorted(cumulative, probability, right=True).clamp(1, GRID - 1)
        low, high = cumulative[right - 1], cumulative[right]
        share = (probability - low) / torch.where(high > low, high - low, torch.ones_like(high))
        return torch.lerp(angles[right - 1], angles[right], share.clamp(0, 1))
