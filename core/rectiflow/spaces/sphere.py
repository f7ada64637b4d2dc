"""The unit sphere in any dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.spaces.quaternions import normalize
from rectiflow.spaces.riemannian import Riemannian, dot
from rectiflow.spaces.series import angle_over_sine_excess, cosine_and_sinc


@dataclass(frozen=True)
class Sphere(Riemannian):
    """S^n: states (B, ..., n + 1) of unit vectors in the last axis; tangents are ambient vectors orthogonal to the state.

    States with several unit vectors are products of spheres. Of a network's output only the tangential part counts. Antipodal
    points have no unique geodesic: a fixed one is taken.
    """

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """w / sin(w) times the part of y that is orthogonal to x, w the angle from x to y by atan2; of length at most pi."""
        chord = y - x
        # The same as y - <x, y> x, without the cancellation for near points.
        across = self.tangent(x, chord)
        square = dot(across, across)
        cosine = 1 - dot(chord, chord) / 2
        tiny = square < 1e-30 if square.dtype == torch.float64 else square < 1e-14
        sine = torch.where(tiny, torch.ones_like(square), square).sqrt()
        direction = torch.where(tiny & (cosine < 0), torch.pi * _orthogonal(x), across)
        return torch.where(tiny, torch.ones_like(sine), torch.atan2(sine, cosine) / sine) * direction

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """cos|v| x + sin|v| v / |v| of the tangential part of v, renormalised."""
        v = self.tangent(x, v)
        cosine, sinc = cosine_and_sinc(dot(v, v))
        return normalize(cosine * x + sinc * v)

    def geodesic(self, x0: Tensor, x1: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """cos(a w) x0 + sin(a w) / w log_x0(x1), and its derivative by a."""
        u = self.log(x0, x1)
        square = dot(u, u)
        cosine, sinc = cosine_and_sinc(a.square() * square)
        return normalize(cosine * x0 + a * sinc * u), cosine * u - a * sinc * square * x0

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v - <x, v> x."""
        return v - dot(x, v) * x

    def separation(self, x: Tensor, y: Tensor) -> Tensor:
        """Angles 2 atan2(|x - y|, |x + y|) in radians, (B, ...) without the last axis."""
        near, far = (torch.linalg.vector_norm(z, dim=-1) for z in (x - y, x + y))
        return 2 * torch.atan2(near, far)

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform: normalised standard normal vectors.

        Raises:
            ConfigError: the last axis is shorter than 2.
        """
        if len(shape) < 2 or shape[-1] < 2:
            raise ConfigError(f"a sphere's states have shape (B, ..., n + 1) with n >= 1; got {tuple(shape)}")
        return normalize(torch.randn(shape, generator=generator, device=device, dtype=dtype))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v - <y, v> (x + y) / (1 + <x, y>): a rotation in the plane of x and y."""
        v = self.tangent(x, v)
        total = x + y
        square = dot(total, total)
        opposite = square < 1e-14
        moved = v - 2 * dot(y, v) / torch.where(opposite, torch.ones_like(square), square) * total
        axis = _orthogonal(x)
        return torch.where(opposite, v - 2 * dot(axis, v) * axis, moved)

    def pull(self, x: Tensor, v: Tensor, h: float, w: Tensor) -> Tensor:
        """w moved back to x, its part across the geodesic times |u| / sin|u|, u = h v.

        The factor is held beyond 2.5 rad, short of the antipode where it is infinite.
        """
        u = h * self.tangent(x, v)
        back = self.transport(self.exp(x, u), x, w)
        square = dot(u, u)
        excess = angle_over_sine_excess(square.clamp(max=2.5**2))
        return back + excess * (square * back - dot(u, back) * u)

    def project(self, x: Tensor) -> Tensor:
        """x / |x|; zero vectors, which stand in padding, stay zero."""
        return normalize(x)


def _orthogonal(x: Tensor) -> Tensor:
    """A fixed unit tangent at x: the axis that x is least aligned with, made orthogonal to x; carries no gradient."""
    x = x.detach()
    axis = torch.zeros_like(x).scatter_(-1, x.abs().argmin(-1, keepdim=True), 1.0)
    return normalize(axis - dot(axis, x) * x)
