"""Score and flow matching: a Schroedinger bridge learnt without simulation, by two regressions on the same paths (SF2M)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, map_state
from rectiflow.conditions import Null
from rectiflow.couplings.bridge import SchroedingerBridge
from rectiflow.couplings.coupling import Coupling
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow, Model
from rectiflow.sources import Source
from rectiflow.stochastic_interpolant import BrownianLatent, StochasticInterpolant
from rectiflow.times import TimeLaw


@dataclass(frozen=True)
class ScoreAndFlow:
    """Two networks that together give a Schroedinger bridge in flat space (SF2M, arXiv 2307.03672).

    The one is the velocity v of the probability flow, the other w = (sigma^2 / 2) score. dX = (v + w) dt + sigma dW carries
    the source to the data, and with v - w the data back to the source, both with the marginals of the flow:
    `integrate(method.flow, x0, method="euler_maruyama", diffusion=sigma**2 / 2, ...)`.

    Args:
        velocity: callable `velocity(x, t, **cond)` with x (B, ...) and t (B,), of x's shape.
        scaled_score: callable of the same form.
        sigma: standard deviation of the reference process at t = 1, in the data's units, above 0.
        coupling: how ends are paired; None is the bridge's own plan.
        source: law of x0; None is a standard normal.
        null: condition name -> value that means "no condition".

    Raises:
        ConfigError: sigma is not positive.
    """

    velocity: Model
    scaled_score: Model
    sigma: float = 1.0
    coupling: Coupling | None = None
    source: Source | None = None
    null: Null | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"sigma of a Schroedinger bridge is {self.sigma}; it must be positive and finite")

    @property
    def flow(self) -> Flow:
        """The probability flow along Brownian bridges, with its score."""
        return Flow(
            self.velocity,
            interpolant=StochasticInterpolant(latent=BrownianLatent(self.sigma**2)),
            source=self.source,
            null=self.null,
            independent=False,
            score_model=self._score,
        )

    def loss(
        self,
        x1: State,
        cond: Cond | None = None,
        *,
        x0: State | None = None,
        mask: Mask = None,
        times: TimeLaw | None = None,
        condition_drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """E |v - u|^2 + E |lambda w + z|^2: u and z are the velocity and unit noise of the paths, lambda = 2 std / sigma^2.

        With std = sigma sqrt(t (1 - t)) the second target has unit variance at all times. Both errors are averaged over a
        sample's valid entries, then over samples; arguments as in `Flow.draw`.
        """
        flow = self.flow
        draw = flow.draw(
            x1,
            cond,
            x0=x0,
            mask=mask,
            times=times,
            coupling=self.coupling or SchroedingerBridge(self.sigma),
            condition_drop=condition_drop,
            generator=generator,
        )
        velocity = self.velocity(draw.xt, draw.t, **draw.cond)
        scaled_score = self.scaled_score(draw.xt, draw.t, **draw.cond)
        weight = 2 * (draw.t * (1 - draw.t)).sqrt() / self.sigma
        weighted = map_state(lambda part: weight.reshape((-1,) + (1,) * (part.ndim - 1)) * part, scaled_score)
        opposite = draw._replace(target=map_state(torch.neg, draw.latent))
        return flow.regression(velocity, draw) + flow.regression(weighted, opposite)

    def _score(self, x: State, t: Tensor, **cond: Tensor) -> Any:
        return map_state(lambda part: part * (2 / self.sigma**2), self.scaled_score(x, t, **cond))
