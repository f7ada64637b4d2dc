"""Stochastic interpolants (arXiv 2303.08797): x_t = a x1 + s x0 + g z with latent noise z ~ N(0, I) that vanishes at both ends.

Any two laws, coupled in any way, get a density at every time in between, and with it a score: -E[z | x_t] / g.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from rectiflow.batch import State, map_state
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.interpolants import END, Coefficients, Interpolant, Linear

if TYPE_CHECKING:
    from rectiflow.flow import Draw


class LatentCoefficients(NamedTuple):
    """g(t), its derivative, and g g', which stays finite where g' does not; each of t's shape."""

    g: Tensor
    dg: Tensor
    gdg: Tensor


class Latent(ABC):
    """A schedule g(t) of latent noise with g(0) = g(1) = 0."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> LatentCoefficients:
        """g, g' and g g' at times t in [0, 1], any shape."""


@dataclass(frozen=True)
class BrownianLatent(Latent):
    """g = sqrt(c t (1-t)), the spread of a Brownian bridge; g' is infinite at both ends and held 1e-5 away from them.

    Args:
        scale: c, above 0.

    Raises:
        ConfigError: scale not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"BrownianLatent scale is {self.scale}; allowed: above 0")

    def coefficients(self, t: Tensor) -> LatentCoefficients:
        """g g' = c (1 - 2t) / 2."""
        product = self.scale * (1 - 2 * t) / 2
        room = t * (1 - t)
        return LatentCoefficients(
            torch.sqrt(self.scale * room), product / torch.sqrt(self.scale * room.clamp(min=END)), product
        )


@dataclass(frozen=True)
class QuadraticLatent(Latent):
    """g = t (1 - t)."""

    def coefficients(self, t: Tensor) -> LatentCoefficients:
        """g' = 1 - 2t."""
        g, dg = t * (1 - t), 1 - 2 * t
        return LatentCoefficients(g, dg, g * dg)


@dataclass(frozen=True)
class SineSquaredLatent(Latent):
    """g = sin^2(pi t)."""

    def coefficients(self, t: Tensor) -> LatentCoefficients:
        """g' = pi sin(2 pi t)."""
        g, dg = torch.sin(math.pi * t).square(), math.pi * torch.sin(2 * math.pi * t)
        return LatentCoefficients(g, dg, g * dg)


@dataclass(frozen=True)
class SigmoidLatent(Latent):
    """A bump with a flat top: sigma(f (t - 1/2) + 1) - sigma(f (t - 1/2) - 1), less its value at the ends; sigma is the logistic.

    Args:
        steepness: f, above 0.

    Raises:
        ConfigError: steepness not positive.
    """

    steepness: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.steepness < math.inf:
            raise ConfigError(f"SigmoidLatent steepness is {self.steepness}; allowed: above 0")

    def coefficients(self, t: Tensor) -> LatentCoefficients:
        """By sigma' = sigma (1 - sigma)."""
        f = self.steepness
        left, right = torch.sigmoid(f * (t - 0.5) + 1), torch.sigmoid(f * (t - 0.5) - 1)
        floor = 1 / (1 + math.exp(f / 2 - 1)) - 1 / (1 + math.exp(f / 2 + 1))
        g = (left - right - floor).clamp(min=0)
        dg = f * (left * (1 - left) - right * (1 - right))
        return LatentCoefficients(g, dg, g * dg)


@dataclass(frozen=True)
class StochasticInterpolant(Interpolant):
    """A path with latent noise: x_t = a x1 + s x0 + g z.

    A flow on it may predict the velocity b = E[a' x1 + s' x0 + g' z | x], the noise eta = E[z | x] (z, not x0) or the score
    -eta / g, whatever the coupling of x0 and x1; the loss has the gradients of the paper's L_b, L_eta and L_s. Velocity and noise
    need a network each: train both as flows of their own and sample with
    `Flow(velocity, path, score_model=LatentScore(noise, path))`.

    Args:
        base: a and s.
        latent: g.
        preserving: scale a and s by sqrt(1 - g^2), so that a^2 + s^2 + g^2 = 1 on a trigonometric base.
        antithetic: train on z and -z for each pair of ends: twice the rows, and without it the loss has infinite variance
            at the ends.

    Raises:
        ConfigError: the base has latent noise itself, or `preserving` with a g that reaches 1.
    """

    base: Interpolant = field(default_factory=Linear)
    latent: Latent = field(default_factory=BrownianLatent)
    preserving: bool = False
    antithetic: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.base, StochasticInterpolant):
            raise ConfigError("the base of a StochasticInterpolant has latent noise itself; give a plain path")
        peak = float(self.latent.coefficients(torch.linspace(0, 1, 101, dtype=torch.float64)).g.max())
        if self.preserving and not peak < 1:
            raise ConfigError(f"a preserving path needs g below 1 everywhere; {self.latent!r} reaches {peak:g}")

    def coefficients(self, t: Tensor) -> Coefficients:
        """a, s and derivatives; the latent part is not in them."""
        c = self.base.coefficients(t)
        if not self.preserving:
            return c
        g, _, gdg = self.latent.coefficients(t)
        k = torch.sqrt(1 - g.square())
        dk = -gdg / k
        return Coefficients(k * c.a, k * c.s, k * c.da + dk * c.a, k * c.ds + dk * c.s)

    def one_sided(self) -> Interpolant:
        """The path without latent noise that has the same law, velocity and score when x0 ~ N(0, I) is independent of x1.

        s x0 + g z is then normal of scale sqrt(s^2 + g^2), so a latent draw would be wasted.
        """
        return OneSided(self)

    def drift_to_velocity(self, drift: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """b = v - g g' score, from v = E[a' x1 + s' x0 | x] and the score at times t (B,)."""
        gdg = self.latent.coefficients(t).gdg
        return drift - gdg.reshape((-1,) + (1,) * (drift.ndim - 1)) * score


@dataclass(frozen=True)
class OneSided(Interpolant):
    """a and sqrt(s^2 + g^2) of a stochastic interpolant."""

    path: StochasticInterpolant

    def coefficients(self, t: Tensor) -> Coefficients:
        """(sqrt(s^2 + g^2))' = (s s' + g g') / sqrt(s^2 + g^2), held 1e-5 away from t = 1."""
        c, latent = self.path.coefficients(t), self.path.latent.coefficients(t)
        held = t.clamp(max=1 - END)
        near, near_latent = self.path.coefficients(held), self.path.latent.coefficients(held)
        ds = (near.s * near.ds + near_latent.gdg) / torch.sqrt(near.s.square() + near_latent.g.square())
        return Coefficients(c.a, torch.sqrt(c.s.square() + latent.g.square()), c.da, ds)


class LatentScore(nn.Module):
    """The score -eta / g of a network eta(x, t, **cond) for the latent noise, as a `Flow` takes it for its `score_model`.

    Args:
        noise: callable that returns E[z | x], of x's shape.
        path: the path that it was trained on.
    """

    def __init__(self, noise: Callable[..., Any], path: StochasticInterpolant) -> None:
        super().__init__()
        self.noise = noise
        self.path = path

    def forward(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """Score of x's shape."""
        return map_state(
            lambda value, part: convert_latent(value, "noise", "score", part, t, self.path), self.noise(x, t, **cond), x
        )


def convert_latent(
    prediction: Tensor, kind: str, target: str, x: Tensor, t: Tensor, path: StochasticInterpolant
) -> Tensor:
    """Noise to score and back, score = -eta / g; g is held at its value 1e-3 away from the ends for the division.

    Raises:
        ConversionError: any other pair: one network knows either the velocity or the latent noise.
    """
    if kind == target:
        return prediction
    shape = (-1,) + (1,) * (x.ndim - 1)
    if (kind, target) == ("noise", "score"):
        return -prediction / path.latent.coefficients(t.clamp(1e-3, 1 - 1e-3)).g.reshape(shape)
    if (kind, target) == ("score", "noise"):
        return -prediction * path.latent.coefficients(t).g.reshape(shape)
    raise ConversionError(
        f"{target} does not follow from {kind} on a path with latent noise, which links noise and score only: train a network "
        "for each (Flow(score_model=...)), or use the path's one_sided() if x0 is normal and independent of x1"
    )


def add_latent(draw: Draw, kind: str, path: StochasticInterpolant, z: State) -> Draw:
    """Latent noise z on a training draw whose target is still a' x1 + s' x0; antithetic paths come back with twice the rows."""
    if path.antithetic:
        draw = _twice(draw)
        z = map_state(lambda part: torch.cat([part, -part]), z)
    g, dg, _ = path.latent.coefficients(draw.t)

    def along(factor: Tensor, part: Tensor) -> Tensor:
        return (factor.reshape((-1,) + (1,) * (part.ndim - 1)) * part).to(part.dtype)

    xt = map_state(lambda part, noise: part + along(g, noise), draw.xt, z)
    if kind == "velocity":
        target: Any = map_state(lambda part, noise: part + along(dg, noise), draw.target, z)
    elif kind == "noise":
        target = z
    else:
        # The target is infinite at the ends: there g is held at its value next to them.
        held = path.latent.coefficients(draw.t.clamp(END, 1 - END)).g
        target = map_state(lambda noise: along(-1 / held, noise), z)
    return draw._replace(xt=xt, target=target, latent=z)


def _twice(draw: Draw) -> Draw:
    def double(part: Tensor) -> Tensor:
        return torch.cat([part, part])

    return draw._replace(
        x0=map_state(double, draw.x0),
        x1=map_state(double, draw.x1),
        t=double(draw.t),
        xt=map_state(double, draw.xt),
        target=map_state(double, draw.target),
        cond={name: double(value) for name, value in draw.cond.items()},
        mask=None if draw.mask is None else map_state(double, draw.mask),
        index=double(draw.index),
    )
