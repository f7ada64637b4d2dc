"""Flat space, with a standard normal prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.batch import Mask
from rectiflow.errors import ConfigError
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.predictions import Prediction, from_velocity, to_velocity
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class Euclidean(Space):
    """R^n: states are tensors (B, ...) of any shape, tangents have the same shape."""

    @property
    def linear(self) -> bool:
        """True."""
        return True

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """(1 - t) x0 + t x1, with t (B,)."""
        return torch.lerp(x0, x1, t.reshape((-1,) + (1,) * (x0.ndim - 1)))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x."""
        return y - x

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v."""
        return x + v

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Euclidean norm (B,) of the difference over all other axes."""
        norm: Tensor = torch.linalg.vector_norm((x - y).flatten(1), dim=1)
        return norm

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Standard normal numbers of the given shape."""
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        """-|x|^2 / 2 - d log(2 pi) / 2 over a sample's d entries, (B,)."""
        flat = x.reshape(len(x), -1)
        return -(flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi)) / 2

    def path(self, x0: Tensor, x1: Tensor, t: Tensor, interpolant: Interpolant) -> tuple[Tensor, Tensor]:
        """x_t = a x1 + s x0 and x_t' = a' x1 + s' x0."""
        if type(interpolant) is Linear and x0.dtype == x1.dtype == t.dtype:  # two kernels instead of ten
            return self.interpolate(x0, x1, t), x1 - x0
        c = interpolant.coefficients(t).expand_to(x1)
        # Times of a half-precision state are float32, and so is the arithmetic; the state keeps its dtype.
        return (c.a * x1 + c.s * x0).to(x1.dtype), (c.da * x1 + c.ds * x0).to(x1.dtype)

    def convert(
        self, prediction: Tensor, kind: Prediction, target: Prediction, x: Tensor, t: Tensor, interpolant: Interpolant
    ) -> Tensor:
        """Any of the four kinds into any other, through the velocity; of x's dtype, also when t is kept more precise."""
        if kind == target:
            return prediction
        return from_velocity(to_velocity(prediction, kind, x, t, interpolant), target, x, t, interpolant).to(x.dtype)

    def step(self, x: Tensor, v: Tensor, h: float) -> Tensor:
        """x + h v in one kernel."""
        return torch.add(x, v, alpha=h)

    def advance(self, x: Tensor, velocities: Sequence[Tensor], weights: Sequence[float], h: float) -> Tensor:
        """x + h times the weighted sum, in one kernel a tangent."""
        for velocity, weight in zip(velocities, weights, strict=True):
            x = self.step(x, velocity, h * weight)
        return x

    def approach(self, x: Tensor, data: Tensor, t: float, t_next: float, interpolant: Interpolant) -> Tensor:
        """(s'/s) x + (a' - a s'/s) data, of the path's coefficients at t_next (primed) and t."""
        c = interpolant.coefficients(torch.tensor([t, t_next], dtype=torch.float64))
        (a, a_next), (s, s_next) = c.a.tolist(), c.s.tolist()
        state: Tensor = self.combine((x, data), (s_next / s, a_next - a * s_next / s))
        return state

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v: tangents of flat space are the same everywhere."""
        return v

    def pull(self, x: Tensor, v: Tensor, h: float, w: Tensor) -> Tensor:
        """w: flat space is its own normal coordinates."""
        return w

    def size(self, x: Tensor) -> Tensor:
        """|x|."""
        return x.abs()

    def squared_distances(self, x: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """|x[i] - y[j]|^2 (B, C) over the entries valid in y[j], by matrix products.

        Raises:
            ConfigError: masks by name.
        """
        valid = valid_entries(self, mask, y)
        first, second = x.flatten(1), y.flatten(1)
        if valid is not None:
            second = second.masked_fill(~valid.flatten(1), 0)
        # Distances do not change under a common shift, and small numbers lose less to rounding.
        centre = second.mean(0)
        first, second = first - centre, second - centre
        if valid is None:
            squares = first.square().sum(1)[:, None] - 2 * first @ second.mT + second.square().sum(1)
        else:
            weight = valid.flatten(1).to(first.dtype)
            second = second * weight
            squares = first.square() @ weight.mT - 2 * first @ second.mT + second.square().sum(1)
        return squares.clamp(min=0)


def valid_entries(space: Space, mask: Mask, x: Tensor) -> Tensor | None:
    """A mask, whose shape is a prefix of x's, for every entry of x; None stays None.

    Raises:
        ConfigError: masks by name, which only a product has a use for.
    """
    if isinstance(mask, dict):
        raise ConfigError(f"{space!r} got masks by name, {sorted(mask)}; it takes one tensor")
    return None if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)).expand_as(x)
