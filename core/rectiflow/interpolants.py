"""Paths between source and data, x_t = a(t) x1 + s(t) x0: the coefficients and their time derivatives.

House time: t = 0 is the source x0, t = 1 is data x1, so a(0) = 0, s(0) = 1, a(1) = 1, s(1) = 0 (the paths that reach an end only
nearly say so).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.errors import ConfigError

END = 1e-5
"""Distance from an end at which a derivative that is infinite there is held."""
STANDSTILL = 1e-3
"""Earliest time at which a path that starts with zero speed is asked what its velocity says of data."""
BISECTIONS = 60


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

    @property
    def ratio(self) -> Tensor:
        """rho(t) = a / s, the root of the signal-to-noise ratio, increasing in t and infinite where s = 0."""
        return self.a / self.s

    def expand_to(self, x: Tensor) -> Coefficients:
        """The same coefficients of shape (B, 1, ..., 1), ready to multiply a state x of shape (B, ...)."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        return Coefficients(*(c.reshape(shape) if c.ndim else c for c in self))


class Interpolant(ABC):
    """A pair of schedules a(t), s(t) whose ratio a / s increases."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1], any shape."""

    def time_of(self, ratio: Tensor) -> Tensor:
        """The time t in [0, 1] at which a / s is `ratio` (any shape, 0 to infinity); the nearest end beyond the path's range.

        Bisection in float64, exact to rounding; the paths below override it by closed forms.
        """
        angle = torch.atan(ratio.double())  # an infinite ratio is an ordinary angle
        sine, cosine = torch.sin(angle), torch.cos(angle)
        low, high = torch.zeros_like(angle), torch.ones_like(angle)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            c = self.coefficients(middle)
            early = c.a * cosine < c.s * sine
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return ((low + high) / 2).to(ratio.dtype)

    @property
    def convex(self) -> bool:
        """Whether a + s = 1, so that the path is a reparametrised geodesic and exists on a curved space."""
        return False

    @property
    def standstill(self) -> float:
        """Time up to which the path hardly moves, so that its velocity cannot be turned into data or noise there."""
        return 0.0


@dataclass(frozen=True)
class Linear(Interpolant):
    """The straight path a = t, s = 1 - t of rectified flow (arXiv 2209.03003) and conditional optimal transport (2210.02747)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; D = 1 everywhere."""
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time_of(self, ratio: Tensor) -> Tensor:
        """t = rho / (1 + rho)."""
        return 1 / (1 / ratio + 1)

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

    def time_of(self, ratio: Tensor) -> Tensor:
        """t = (2 / pi) atan rho."""
        return torch.atan(ratio) * (2 / math.pi)


@dataclass(frozen=True)
class Polynomial(Interpolant):
    """The path a = t^n, s = 1 - t^n: straight, and for n > 1 slow to leave the source (arXiv 2412.06264).

    Args:
        power: n, at least 1; 1 is the linear path.

    Raises:
        ConfigError: power below 1, where the speed at t = 0 would be infinite.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.power < math.inf:
            raise ConfigError(f"Polynomial power is {self.power}; allowed: 1 (the linear path) or more")

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; D = a' = n t^(n-1)."""
        a, da = t**self.power, self.power * t ** (self.power - 1)
        return Coefficients(a, 1 - a, da, -da)

    def time_of(self, ratio: Tensor) -> Tensor:
        """t = (rho / (1 + rho))^(1/n)."""
        return (1 / (1 / ratio + 1)) ** (1 / self.power)

    @property
    def convex(self) -> bool:
        """True: a + s = 1."""
        return True

    @property
    def standstill(self) -> float:
        """Positive for n > 1, where D(0) = 0."""
        return STANDSTILL if self.power > 1 else 0.0


@dataclass(frozen=True)
class Exponential(Interpolant):
    """The path a = 1 - exp(-c t), s = exp(-c t): fast at first, and at t = 1 still exp(-c) short of data.

    A schedule to sample with rather than to train on (`rectiflow.schedules`): towards a data prediction that stays put the rate
    of approach a' / s is constant.

    Args:
        rate: c, above 0.

    Raises:
        ConfigError: a rate that is not positive and finite.
    """

    rate: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"Exponential rate is {self.rate}; it must be positive and finite, for example 10")

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; D = a' = c s."""
        s = torch.exp(-self.rate * t)
        return Coefficients(-torch.expm1(-self.rate * t), s, self.rate * s, -self.rate * s)

    def time_of(self, ratio: Tensor) -> Tensor:
        """t = log(1 + rho) / c, at most 1."""
        return (torch.log1p(ratio) / self.rate).clamp(max=1)

    @property
    def convex(self) -> bool:
        """True: a + s = 1."""
        return True


@dataclass(frozen=True)
class _Diffusion(Interpolant):
    """The integrated noise rate T(t) = u^2 (B - b) / 2 + u b, u = 1 - t, that the two diffusion paths are made of."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ConfigError(
                f"{type(self).__name__} got beta_min {self.beta_min} and beta_max {self.beta_max}; "
                "allowed: 0 < beta_min <= beta_max"
            )

    def _integral(self, u: Tensor) -> Tensor:
        return u * u * ((self.beta_max - self.beta_min) / 2) + u * self.beta_min

    def _rate(self, u: Tensor) -> Tensor:
        return u * (self.beta_max - self.beta_min) + self.beta_min

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        """The root of the quadratic in the form that loses no digits at t = 1, for T between its values at the ends."""
        integral = integral.clamp(max=(self.beta_min + self.beta_max) / 2)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return (1 - 2 * integral / (self.beta_min + root)).clamp(0, 1)


@dataclass(frozen=True)
class VariancePreserving(_Diffusion):
    """The diffusion path a = exp(-T/2), s = sqrt(1 - exp(-T)), T = (1-t)^2 (B-b)/2 + (1-t) b (arXiv 2011.13456).

    a(0) is exp(-(b + B)/4), 0.0066 by default and not 0: a model trained on it has never seen pure noise, and starts from it all
    the same. s' is -infinity at t = 1 and is held at its value at t = 1 - 1e-5, where s has 0.1 percent left.

    Args:
        beta_min: noise rate b at data, above 0.
        beta_max: noise rate B at the source, at least b.

    Raises:
        ConfigError: rates out of range.
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; a^2 + s^2 = 1."""
        u = 1 - t
        held = u.clamp(min=END)  # by u and not by t: 1 - 1e-5 does not exist in bfloat16
        a = torch.exp(-self._integral(u) / 2)
        s = torch.sqrt(-torch.expm1(-self._integral(u)))
        kept = self._integral(held)
        ds = -self._rate(held) * torch.exp(-kept) / (2 * torch.sqrt(-torch.expm1(-kept)))
        return Coefficients(a, s, self._rate(u) * a / 2, ds)

    def time_of(self, ratio: Tensor) -> Tensor:
        """T = log(1 + rho^-2), and the time at which T has that value."""
        return self._time_of_integral(torch.log1p(ratio**-2))


@dataclass(frozen=True)
class SubVariancePreserving(_Diffusion):
    """The diffusion path a = exp(-T/2), s = 1 - exp(-T), T as in `VariancePreserving` (arXiv 2011.13456).

    a(0) = 0.0066 and s(0) = 1 - 4e-5 by default; both derivatives are finite everywhere.

    Args:
        beta_min: noise rate b at data, above 0.
        beta_max: noise rate B at the source, at least b.

    Raises:
        ConfigError: rates out of range.
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]."""
        u = 1 - t
        integral, rate = self._integral(u), self._rate(u)
        a = torch.exp(-integral / 2)
        return Coefficients(a, -torch.expm1(-integral), rate * a / 2, -rate * torch.exp(-integral))

    def time_of(self, ratio: Tensor) -> Tensor:
        """rho = 1 / (2 sinh(T/2)), so T = 2 asinh(1 / (2 rho))."""
        return self._time_of_integral(2 * torch.asinh(1 / (2 * ratio)))


@dataclass(frozen=True)
class LinearVariancePreserving(Interpolant):
    """The path a = t, s = sqrt(1 - t^2); s' is -infinity at t = 1 and is held at its value at t = 1 - 1e-5."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; a^2 + s^2 = 1."""
        u = 1 - t
        held = u.clamp(min=END)
        return Coefficients(t, torch.sqrt(u * (1 + t)), torch.ones_like(t), (held - 1) / torch.sqrt(held * (2 - held)))

    def time_of(self, ratio: Tensor) -> Tensor:
        """t = rho / sqrt(1 + rho^2)."""
        return 1 / torch.sqrt(1 + ratio**-2)


@dataclass(frozen=True)
class Lipman(Interpolant):
    """The path a = t, s = 1 - (1 - sigma_min) t, which keeps a little noise on data (arXiv 2210.02747).

    Args:
        sigma_min: s(1), in [0, 1); 0 is the linear path.

    Raises:
        ConfigError: sigma_min out of range.
    """

    sigma_min: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ConfigError(f"Lipman sigma_min is {self.sigma_min}; allowed: at least 0 and below 1")

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times t in [0, 1]; D = 1 everywhere."""
        slope = 1 - self.sigma_min
        one = torch.ones_like(t)
        # (1 - t) + sigma_min t, so that s(1) is sigma_min to the last digit
        return Coefficients(t, (1 - t) + self.sigma_min * t, one, -slope * one)

    def time_of(self, ratio: Tensor) -> Tensor:
        """t = rho / (1 + (1 - sigma_min) rho), at most 1."""
        return (1 / (1 / ratio + (1 - self.sigma_min))).clamp(max=1)
