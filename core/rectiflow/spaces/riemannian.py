"""What the curved and the periodic spaces share: geodesic paths and what a network may predict on them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from rectiflow.batch import Mask
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.predictions import MARGIN, Prediction
from rectiflow.spaces.space import Space

ENTRIES = 2**22
"""Entries of states that are compared at once when every state of a batch meets every other."""


class Riemannian(Space):
    """A space whose paths are geodesics x_t = exp_x0(a(t) log_x0(x1)) (Riemannian flow matching, arXiv 2302.03660).

    Only convex interpolants, a + s = 1, have such a path. A network predicts the velocity or the data; noise and score have no
    meaning that holds on every space.
    """

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Tangent at x of the shortest geodesic that reaches y at unit time."""

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point reached from x at unit time along the tangent v."""

    @abstractmethod
    def geodesic(self, x0: Tensor, x1: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Point at fraction a, of shape (B, 1, ..., 1), of the geodesic from x0 to x1, and the derivative by a there."""

    @abstractmethod
    def separation(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances between the parts of states (vectors, rotations, angles), of the shape that the leading axes broadcast to."""

    @abstractmethod
    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The tangent at x that is closest to v: what of a network's output moves the state."""

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Root (B,) of the summed squares of the distances between the parts of a state."""
        separation = self.separation(x, y)
        norm: Tensor = torch.linalg.vector_norm(separation.reshape(len(separation), -1), dim=1)
        return norm

    def squared_distances(self, x: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Squared distance (B, C) of every x[i] from every y[j], over the parts that are valid in y[j].

        Raises:
            ConfigError: masks by name, or a mask inside a part, such as a single entry of a rotation.
        """
        if isinstance(mask, dict):
            raise ConfigError(f"{self!r} got masks by name, {sorted(mask)}; it takes one tensor")
        blocks = []
        for block in torch.split(x, max(1, ENTRIES // max(1, y.numel()))):
            squares = self.separation(block[:, None], y[None]).square()
            if mask is not None:
                if mask.ndim >= squares.ndim:
                    raise ConfigError(
                        f"{self!r} got a mask of shape {tuple(mask.shape)} for states {tuple(y.shape)}; a mask tells whole "
                        f"parts from padding, at most {tuple(squares.shape[1:])}"
                    )
                squares = squares.masked_fill(~mask.reshape(mask.shape + (1,) * (squares.ndim - 1 - mask.ndim)), 0)
            blocks.append(squares.flatten(2).sum(2) if squares.ndim > 2 else squares)
        return torch.cat(blocks)

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """The point at fraction t (B,) of the shortest geodesic from x0 to x1."""
        return self.path(x0, x1, t, Linear())[0]

    def path(self, x0: Tensor, x1: Tensor, t: Tensor, interpolant: Interpolant) -> tuple[Tensor, Tensor]:
        """x_t = exp_x0(a log_x0(x1)) and its time derivative, regular at both ends.

        Raises:
            ConversionError: the interpolant is not convex.
        """
        self._require_convex(interpolant)
        c = interpolant.coefficients(t).expand_to(x1)
        xt, rate = self.geodesic(x0, x1, c.a)
        return xt.to(x1.dtype), (c.da * rate).to(x1.dtype)

    def convert(
        self, prediction: Tensor, kind: Prediction, target: Prediction, x: Tensor, t: Tensor, interpolant: Interpolant
    ) -> Tensor:
        """Velocity from data, v = a' / (1 - a) log_x(x1), and back; t is kept away from 1 only where that divides.

        Raises:
            ConversionError: noise or score, or an interpolant that is not convex.
        """
        self._require_defined(kind)
        self._require_defined(target)
        self._require_convex(interpolant)
        if kind == target:
            return prediction if kind == "data" else self.tangent(x, prediction)
        if kind == "data":
            c = interpolant.coefficients(t.clamp(max=1 - MARGIN)).expand_to(x)
            return (c.da / c.s * self.log(x, prediction)).to(x.dtype)
        c = interpolant.coefficients(t.clamp(min=interpolant.standstill)).expand_to(x)
        return self.exp(x, c.s / c.da * prediction).to(x.dtype)

    def approach(self, x: Tensor, data: Tensor, t: float, t_next: float, interpolant: Interpolant) -> Tensor:
        """The share (a' - a) / (1 - a) of the geodesic from x to the data, in (0, 1]; a at t_next is primed.

        Raises:
            ConversionError: the interpolant is not convex.
        """
        self._require_convex(interpolant)
        s, s_next = interpolant.coefficients(torch.tensor([t, t_next], dtype=torch.float64)).s.tolist()
        return self.exp(x, (1 - s_next / s) * self.log(x, data))

    def size(self, x: Tensor) -> Tensor:
        """1, for a radian or a unit of length: where a state is does not make an error larger or smaller."""
        return x.new_ones(())

    def step(self, x: Tensor, v: Tensor, h: float) -> Tensor:
        """exp(x, h v)."""
        return self.exp(x, h * v)

    def residual(self, prediction: Tensor, target: Tensor, kind: Prediction, x: Tensor) -> Tensor:
        """Difference of tangents at x; data predictions are compared as the tangents log_x that lead to them.

        Raises:
            ConversionError: noise or score.
        """
        self._require_defined(kind)
        if kind == "data":
            return self.log(x, prediction) - self.log(x, target)
        return self.tangent(x, prediction) - target

    def _require_defined(self, kind: Prediction) -> None:
        if kind not in ("velocity", "data"):
            raise ConversionError(f"{kind} is not defined on {self!r}; allowed: velocity, data")

    def _require_convex(self, interpolant: Interpolant) -> None:
        if not interpolant.convex:
            raise ConversionError(
                f"{interpolant!r} has a + s != 1, which is no path on {self!r}; use a convex interpolant, such as Linear()"
            )


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products (..., 1) over the last axis."""
    return (x * y).sum(-1, keepdim=True)
