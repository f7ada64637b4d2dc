"""Rotations in three dimensions, as unit quaternions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.spaces import quaternions
from rectiflow.spaces.igso3 import IGSO3
from rectiflow.spaces.quaternions import conjugate, multiply, normalize
from rectiflow.spaces.riemannian import Riemannian, dot
from rectiflow.spaces.series import inverse_jacobian_coefficient


@dataclass(frozen=True)
class SO3(Riemannian):
    """SO(3): states (B, ..., 4) of unit quaternions (w, x, y, z) in the last axis, q and -q the same state.

    Tangents (B, ..., 3) are rotation vectors in the body frame, in radians: dq/dt = q * (0, v) / 2, so a constant v is a constant
    angular velocity and a step q * Exp(h v) is exact. Turning the world (q -> g q) leaves tangents as they are. Distances are
    rotation angles. A network should see q through what does not change with its sign, such as its matrix.

    Args:
        prior: law of the space's own source; None is uniform.
    """

    prior: IGSO3 | None = None

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Body-frame rotation vector Log(x^-1 y) of length at most pi."""
        return quaternions.log(multiply(conjugate(x), y))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x * Exp(v), renormalised."""
        return normalize(multiply(x, quaternions.exp(v)))

    def geodesic(self, x0: Tensor, x1: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Spherical linear interpolation in exponential form, x0 * Exp(a v) with v = Log(x0^-1 x1), and v.

        Raises:
            ConfigError: the last axis does not have length 4.
        """
        _check_shape(x1.shape)
        v = self.log(x0, x1)
        return self.exp(x0, a * v), v

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v: every rotation vector is a tangent."""
        return v

    def separation(self, x: Tensor, y: Tensor) -> Tensor:
        """Rotation angles 4 atan2(min, max) of |x - y| and |x + y|, (B, ...) without the last axis."""
        one, other = (torch.linalg.vector_norm(z, dim=-1) for z in (x - y, x + y))
        return 4 * torch.atan2(torch.minimum(one, other), torch.maximum(one, other))

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform (normalised standard normal quaternions), or the given prior.

        Raises:
            ConfigError: the last axis does not have length 4.
        """
        _check_shape(shape)
        if self.prior is not None:
            return self.prior.sample(shape, generator, device=device, dtype=dtype)
        return normalize(torch.randn(shape, generator=generator, device=device, dtype=dtype))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v turned back by half of the rotation from x to y, which keeps it parallel seen from the body at y."""
        return quaternions.rotate(quaternions.exp(-self.log(x, y) / 2), v)

    def pull(self, x: Tensor, v: Tensor, h: float, w: Tensor) -> Tensor:
        """Inverse right Jacobian w + u x w / 2 + c(|u|) u x (u x w), u = h v (Runge-Kutta-Munthe-Kaas)."""
        u = h * v
        first = torch.linalg.cross(u, w)
        # Held short of the full turn, where the coefficient is infinite.
        coefficient = inverse_jacobian_coefficient(dot(u, u).clamp(max=(1.75 * math.pi) ** 2))
        pulled: Tensor = w + first / 2 + coefficient * torch.linalg.cross(u, first)
        return pulled

    def project(self, x: Tensor) -> Tensor:
        """x / |x|; zero quaternions, which stand in padding, stay zero."""
        return normalize(x)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or shape[-1] != 4:
        raise ConfigError(f"rotations have shape (B, ..., 4), quaternions (w, x, y, z); got {tuple(shape)}")
