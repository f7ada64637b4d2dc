"""The Schroedinger bridge between two laws: how ends are paired, and the noisy path between paired ends.

Reference process: sigma times Brownian motion. The bridge's ends follow the entropic plan with reg = 2 sigma^2, and given the
ends its path is a Brownian bridge (SB-CFM, arXiv 2302.00482; SF2M, 2307.03672).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, map_state
from rectiflow.couplings.coupling import Coupled, Coupling
from rectiflow.couplings.entropic import EntropicOT
from rectiflow.couplings.plans import Plan
from rectiflow.errors import ConfigError


@dataclass(frozen=True)
class SchroedingerBridge(Coupling):
    """The ends of a Schroedinger bridge, drawn from the batch's entropic plan with regularisation 2 sigma^2.

    Pair it with paths that carry the same noise: `BrownianBridge(sigma)`, or an interpolant with latent noise
    sigma sqrt(t (1 - t)).

    Args:
        sigma: standard deviation of the reference process at t = 1, in the data's units, above 0.
        condition_weight, tolerance, max_iterations: as in `EntropicOT`.
    """

    sigma: float = 1.0
    condition_weight: float = math.inf
    tolerance: float = 1e-6
    max_iterations: int = 1000
    independent = False

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def plan(self, x0: State, x1: State, cond: Cond | None = None, *, mask: Tensor | None = None) -> Plan:
        """The plan (B, B), rows of x0 by rows of x1."""
        return self._entropic().plan(x0, x1, cond, mask=mask)

    def __call__(
        self,
        x0: State,
        x1: State,
        cond: Cond | None = None,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Coupled:
        """x0 as it is, beside partners drawn from the plan; raises as `EntropicOT` does."""
        return self._entropic()(x0, x1, cond, mask=mask, generator=generator)

    def _entropic(self) -> EntropicOT:
        return EntropicOT(
            2 * self.sigma**2,
            relative=False,
            condition_weight=self.condition_weight,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )


class BridgeDraw(NamedTuple):
    """Points of Brownian bridges: times (B,) as used, states, conditional velocities and scores, and the unit noise z in them."""

    t: Tensor
    xt: Any
    velocity: Any
    score: Any
    noise: Any


@dataclass(frozen=True)
class BrownianBridge:
    """The path N((1 - t) x0 + t x1, sigma^2 t (1 - t) I) between given ends.

    Given both ends the velocity of its probability flow, x1 - x0 + (1 - 2t) / (2t (1 - t)) (x - mean), and its score,
    -(x - mean) / (sigma^2 t (1 - t)), grow without bound towards t = 0 and 1. Times are therefore moved into
    [margin, 1 - margin] before anything is computed, so that state, velocity and score always belong to one time.

    Args:
        sigma: standard deviation of the reference process at t = 1, in the data's units, above 0.
        margin: distance that times keep from 0 and 1, in (0, 1/2).
    """

    sigma: float = 1.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)
        if not 0 < self.margin < 0.5:
            raise ConfigError(f"margin of a Brownian bridge is {self.margin}; allowed: between 0 and 0.5")

    def mean(self, x0: State, x1: State, t: Tensor) -> Any:
        """(1 - t) x0 + t x1, of the states' shape, at times t (B,)."""
        t = self._inside(t)
        return map_state(lambda first, second: torch.lerp(first, second, _like(t, first)), x0, x1)

    def std(self, t: Tensor) -> Tensor:
        """sigma sqrt(t (1 - t)), of t's shape."""
        t = self._inside(t)
        return self.sigma * (t * (1 - t)).sqrt()

    def velocity(self, x: State, x0: State, x1: State, t: Tensor) -> Any:
        """Velocity at x of the flow that carries the law of the bridge between x0 and x1."""
        inside = self._inside(t)
        rate = (1 - 2 * inside) / (2 * inside * (1 - inside))
        return map_state(
            lambda point, mean, first, second: second - first + _like(rate, point) * (point - mean),
            x,
            self.mean(x0, x1, t),
            x0,
            x1,
        )

    def score(self, x: State, x0: State, x1: State, t: Tensor) -> Any:
        """Gradient at x of the log-density of the bridge between x0 and x1."""
        precision = self.std(t).square().reciprocal()
        return map_state(lambda point, mean: _like(precision, point) * (mean - point), x, self.mean(x0, x1, t))

    def score_weight(self, t: Tensor) -> Tensor:
        """lambda(t) = 2 std(t) / sigma^2, of t's shape: lambda (sigma^2 / 2) score = -z has unit variance (SF2M)."""
        return 2 * self.std(t) / self.sigma**2

    def sample(self, x0: State, x1: State, t: Tensor, generator: torch.Generator | None = None) -> BridgeDraw:
        """Points of the bridges between paired ends (B, ...), at times t (B,), with what may be learnt there."""
        noise = map_state(
            lambda part: torch.randn(part.shape, generator=generator, device=part.device, dtype=part.dtype), x0
        )
        std = self.std(t)
        xt = map_state(lambda mean, z: mean + _like(std, mean) * z, self.mean(x0, x1, t), noise)
        return BridgeDraw(self._inside(t), xt, self.velocity(xt, x0, x1, t), self.score(xt, x0, x1, t), noise)

    def _inside(self, t: Tensor) -> Tensor:
        return t.clamp(self.margin, 1 - self.margin)


def _like(factor: Tensor, x: Tensor) -> Tensor:
    """A factor (B,) of shape (B, 1, ..., 1) and of x's dtype."""
    return factor.reshape((-1,) + (1,) * (x.ndim - 1)).to(x.dtype)


def _check_sigma(sigma: float) -> None:
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ConfigError(f"sigma of a Schroedinger bridge is {sigma}; it must be positive and finite")
