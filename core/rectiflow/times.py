"""Times: the laws that training draws t from, and the grids that solvers walk on."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rectiflow.errors import ConfigError


class TimeLaw(ABC):
    """A probability law on [0, 1] that training times are drawn from, by transforming one uniform (or normal) number."""

    @abstractmethod
    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Times (count,) in [0, 1]."""


@dataclass(frozen=True)
class Uniform(TimeLaw):
    """t ~ U(0, 1)."""

    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Times (count,) in [0, 1)."""
        return torch.rand(count, generator=generator, device=device)


@dataclass(frozen=True)
class LogitNormal(TimeLaw):
    """t = sigmoid(mean + std n), n ~ N(0, 1), mixed with a uniform share (arXiv 2403.03206).

    At std 1 the law gives t < 0.01 a mass of 2e-6, so the ends, where few-step samplers evaluate, are never trained:
    `uniform` is the share of draws, in [0, 1], that come from U(0, 1) instead.
    """

    mean: float = 0.0
    std: float = 1.0
    uniform: float = 0.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(f"LogitNormal std is {self.std}; allowed: a number above 0")
        if not 0 <= self.uniform <= 1:
            raise ConfigError(f"LogitNormal uniform share is {self.uniform}; allowed: 0 to 1")

    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Times (count,) in (0, 1)."""
        t = torch.sigmoid(self.mean + self.std * torch.randn(count, generator=generator, device=device))
        if self.uniform == 0:
            return t
        u, pick = torch.rand(2, count, generator=generator, device=device)
        return torch.where(pick < self.uniform, u, t)


@dataclass(frozen=True)
class UShaped(TimeLaw):
    """Density proportional to cosh(A (t - 1/2)): weight on both ends, for training on stored pairs (arXiv 2405.20320).

    The distribution function 1/2 + sinh(A (t - 1/2)) / (2 sinh(A / 2)) is inverted in closed form.
    """

    sharpness: float = 4.0

    def __post_init__(self) -> None:
        if not self.sharpness > 0:
            raise ConfigError(f"UShaped sharpness is {self.sharpness}; allowed: a number above 0 (0 would be Uniform)")

    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Times (count,) in [0, 1]."""
        u = torch.rand(count, generator=generator, device=device)
        t = 0.5 + torch.asinh((2 * u - 1) * math.sinh(self.sharpness / 2)) / self.sharpness
        return t.clamp(0, 1)  # rounding may pass an end by one unit in the last place


@dataclass(frozen=True)
class Mode(TimeLaw):
    """t = 1 - u - q (cos^2(pi u / 2) - 1 + u): more mass in the middle for q > 0, at the ends for q < 0 (arXiv 2403.03206).

    `scale` is q in [-1, 2 / (pi - 2)], the range in which the map is monotone.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        limit = 2 / (math.pi - 2)
        if not -1 <= self.scale <= limit:
            raise ConfigError(f"Mode scale is {self.scale}; allowed: -1 to {limit:.4f}")

    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Times (count,) in [0, 1]."""
        u = torch.rand(count, generator=generator, device=device)
        return (1 - u - self.scale * (torch.cos(math.pi / 2 * u).square() - 1 + u)).clamp(0, 1)


Time = TypeVar("Time", Tensor, float)


def shift_time(t: Time, shift: float) -> Time:
    """Move times towards the noise end for large states, or towards data for shift < 1.

    On noise time tau = 1 - t this is tau -> shift tau / (1 + (shift - 1) tau); the ends stay, shift(shift(t, a), b) =
    shift(t, a b), and the inverse of `a` is `1 / a` (arXiv 2403.03206, eq. 23: shift = sqrt(m / n) for m against n pixels;
    the exponential form with mu is shift = e^mu).

    Raises:
        ConfigError: shift is not positive.
    """
    if not shift > 0:
        raise ConfigError(f"time shift is {shift}; allowed: a number above 0 (1 leaves times as they are)")
    return t / (
        t + shift * (1 - t)
    )  # this form of the formula keeps both ends exact, so that a grid never leaves [0, 1]


def grid_points(steps: int, shift: float = 1.0) -> list[float]:
    """Increasing times from 0 to 1, steps + 1 of them, uniform before the shift.

    Raises:
        ConfigError: steps < 1 or shift <= 0.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; allowed: an integer of at least 1")
    return [shift_time(i / steps, shift) for i in range(steps + 1)]


def time_grid(steps: int, shift: float = 1.0) -> Tensor:
    """The times of `grid_points` as a tensor (steps + 1,) in float64 on the CPU; errors as there."""
    return torch.tensor(grid_points(steps, shift), dtype=torch.float64)


def check_grid(times: Tensor) -> list[float]:
    """Validate a solver's grid and return it as plain numbers (one host copy before the loop, none inside).

    Args:
        times: (N + 1,), N >= 1, strictly increasing or strictly decreasing inside [0, 1].

    Raises:
        ConfigError: wrong shape, out of range or not strictly monotone.
    """
    if times.ndim != 1 or times.numel() < 2:
        raise ConfigError(f"times has shape {tuple(times.shape)}; allowed: one axis with at least two entries")
    grid = [float(value) for value in times.detach().to("cpu", torch.float64).tolist()]
    for value in grid:
        if not 0 <= value <= 1:
            raise ConfigError(f"times hold {value:g}; allowed: 0 to 1")
    forward = grid[-1] > grid[0]
    for earlier, later in itertools.pairwise(grid):
        if (later > earlier) is not forward or later == earlier:
            raise ConfigError(
                f"times go from {earlier:g} to {later:g}; allowed: strictly increasing or strictly decreasing"
            )
    return grid
