"""Paths between source and data, x_t = a(t) x1 + s(t) x0: the coefficients and their time derivatives.

House time: t = 0 is the source x0, t = 1 is data x1, so a(0) = 0, s(0) = 1, a(1) = 1, s(1) = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """a(t), s(t) and their time derivatives, each of t's shape."""

    a: Tensor
    s: Tensor
    da: Tensor
    ds: Tensor

    @property
    def determinant(self) -> Tensor:
        """D(t) = a' s - s' a, positive inside (0, 1): what divides every conversion between predictions."""
        return self.da * self.s - self.ds * self.a

    def expand_to(self, x: Tensor) -> Coefficients:
        """The same coefficients of shape (B, 1, ..., 1), ready to multiply a state x of shape (B, ...)."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        return Coefficients(*(c.reshape(shape) if c.ndim else c for c in self))


class Interpolant(ABC):
    """A pair of schedules a(t), s(t)."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1], any shape."""

    @property
    def convex(self) -> bool:
        """Whether a + s = 1, so that the path is a reparametrised geodesic and exists on a curved space."""
        return False


@dataclass(frozen=True)
class Linear(Interpolant):
    """The straight path a = t, s = 1 - t of rectified flow (arXiv 2209.03003) and conditional optimal transport (2210.02747)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; D = 1 everywhere."""
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    @property
    def convex(self) -> bool:
        """True: a + s = 1."""
        return True


@dataclass(frozen=True)
class Trigonometric(Interpolant):
    """The variance-preserving path a = sin(pi t / 2), s = cos(pi t / 2) (arXiv 2303.08797; "GVP" in 2401.08740)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; a^2 + s^2 = 1 and D = pi / 2 everywhere."""
        quarter = math.pi / 2
        sine, cosine = torch.sin(quarter * t), torch.cos(quarter * t)
        return Coefficients(sine, cosine, quarter * cosine, -quarter * sine)
