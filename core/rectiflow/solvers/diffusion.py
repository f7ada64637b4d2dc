"""How much noise a stochastic sampler adds: eps(t) >= 0, any choice of which leaves the marginals of the flow as they are.

dx = (v + eps score) dt + sqrt(2 eps) dW forwards (arXiv 2303.08797, 2401.08740); the forms are those of SiT.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rectiflow.errors import ConfigError
from rectiflow.interpolants import Interpolant


class Moment(NamedTuple):
    """A time of the grid, with the path's a, s and determinant there."""

    t: float
    a: float
    s: float
    determinant: float


FORMS: dict[str, Callable[[Moment], float]] = {
    "constant": lambda m: 1.0,
    # singular where a = 0: pure noise gains nothing from more noise, and eps = 0 is as right as any other value there
    "sbdm": lambda m: m.s * m.determinant / m.a if m.a > 0 else 0.0,
    "sigma": lambda m: m.s,
    "linear": lambda m: 1 - m.t,
    "decreasing": lambda m: 0.25 * (math.cos(math.pi * m.t) + 1) ** 2,
    "increasing-decreasing": lambda m: math.sin(math.pi * m.t) ** 2,
}


@dataclass(frozen=True)
class Diffusion:
    """eps(t) = scale times a form.

    Forms: constant 1; sbdm s (a' s / a - s'), the reverse of the diffusion that noises the data; sigma s; linear 1 - t;
    decreasing (cos(pi t) + 1)^2 / 4; increasing-decreasing sin^2(pi t).

    Raises:
        ConfigError: the form is unknown, or the scale is negative.
    """

    form: str = "sigma"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"diffusion {self.form!r} is unknown; allowed: {', '.join(sorted(FORMS))}")
        if not self.scale >= 0:
            raise ConfigError(f"diffusion scale is {self.scale:g}; allowed: a number of at least 0")


Amount = Diffusion | str | float | Callable[[float], float]


def amounts(diffusion: Amount, interpolant: Interpolant, times: list[float]) -> list[float]:
    """eps at each time of a grid, from a `Diffusion`, the name of a form, a constant, or a function of t.

    Raises:
        ConfigError: a value is negative or not finite.
    """
    if isinstance(diffusion, str):
        diffusion = Diffusion(diffusion)
    if isinstance(diffusion, (int, float)):
        values = [float(diffusion)] * len(times)
    elif isinstance(diffusion, Diffusion):
        form, scale = FORMS[diffusion.form], diffusion.scale
        values = (
            [max(0.0, scale * form(moment)) for moment in _moments(interpolant, times)]
            if scale > 0
            else [0.0] * len(times)
        )
    else:
        values = [float(diffusion(t)) for t in times]
    for t, value in zip(times, values, strict=True):
        if not 0 <= value < math.inf:
            raise ConfigError(f"diffusion is {value:g} at t = {t:g}; allowed: a finite number of at least 0")
    return values


def _moments(interpolant: Interpolant, times: list[float]) -> list[Moment]:
    c = interpolant.coefficients(torch.tensor(times, dtype=torch.float64))
    rows = (times, c.a.tolist(), c.s.tolist(), c.determinant.tolist())
    return [Moment(*row) for row in zip(*rows, strict=True)]
