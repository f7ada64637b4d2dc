"""Score and flow matching: a Schroedinger bridge learnt without simulation, by two regressions on the same bridges (SF2M)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size, device_of, map_state, parts, time_dtype
from rectiflow.conditions import Null
from rectiflow.couplings.bridge import BrownianBridge, SchroedingerBridge
from rectiflow.couplings.coupling import Coupling
from rectiflow.errors import NonFiniteError
from rectiflow.flow import Flow, Model, Source
from rectiflow.sampling import Solution
from rectiflow.times import TimeLaw, time_grid


@dataclass(frozen=True)
class ScoreAndFlow:
    """Two networks that together give the drift of a Schroedinger bridge in flat space (SF2M, arXiv 2307.03672).

    The one is the velocity of the probability flow, the other (sigma^2 / 2) times the score; their sum is the drift of
    dX = drift dt + sigma dW, which carries the source to the data with the same marginals as the flow does.

    Args:
        velocity: callable `velocity(x, t, **cond)` with x (B, ...) and t (B,), of x's shape.
        scaled_score: callable of the same form.
        bridge: the noise of the paths.
        coupling: how ends are paired; None is the Schroedinger bridge's own plan, with the bridge's sigma.
        source: law of x0; None is a standard normal.
        null: condition name -> value that means "no condition".
    """

    velocity: Model
    scaled_score: Model
    bridge: BrownianBridge = field(default_factory=BrownianBridge)
    coupling: Coupling | None = None
    source: Source | None = None
    null: Null | None = None

    @property
    def flow(self) -> Flow:
        """The probability flow, ready to integrate."""
        return Flow(self.velocity, source=self.source, null=self.null, independent=False)

    def loss(
        self,
        x1: State,
        cond: Cond | None = None,
        *,
        x0: State | None = None,
        mask: Tensor | None = None,
        times: TimeLaw | None = None,
        condition_drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """E |v - u|^2 + E |lambda w + z|^2 with u, z the bridge's velocity and noise, w the scaled score, lambda its weight.

        Both targets are averaged over a sample's valid entries, then over samples; arguments as in `Flow.draw`.
        """
        flow = self.flow
        draw = flow.draw(
            x1,
            cond,
            x0=x0,
            mask=mask,
            times=times,
            coupling=self.coupling or SchroedingerBridge(self.bridge.sigma),
            condition_drop=condition_drop,
            generator=generator,
        )
        bridge = self.bridge.sample(draw.x0, draw.x1, draw.t, generator)
        draw = draw._replace(t=bridge.t, xt=bridge.xt, target=bridge.velocity)
        velocity = self.velocity(bridge.xt, bridge.t, **draw.cond)
        scaled_score = self.scaled_score(bridge.xt, bridge.t, **draw.cond)
        weight = self.bridge.score_weight(bridge.t)
        weighted = map_state(lambda part: weight.reshape((-1,) + (1,) * (part.ndim - 1)) * part, scaled_score)
        opposite = draw._replace(target=map_state(torch.neg, bridge.noise))
        return flow.regression(velocity, draw) + flow.regression(weighted, opposite)

    def drift(self, x: State, t: Tensor, *, reverse: bool = False, **cond: Tensor) -> Any:
        """Drift at x (B, ...), t (B,): velocity plus scaled score; minus it for the process run from t = 1 down to 0."""
        sign = -1 if reverse else 1
        return map_state(
            lambda v, w: torch.add(v, w, alpha=sign), self.velocity(x, t, **cond), self.scaled_score(x, t, **cond)
        )

    @torch.no_grad()
    def simulate(
        self,
        x: State,
        *,
        steps: int,
        reverse: bool = False,
        cond: Cond | None = None,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """Follow the stochastic bridge by Euler and Maruyama's method from t = 0 to 1, or from 1 to 0.

        Args:
            x: (B, ...) state at the first time.
            steps: number of equal steps, at least 1.
            reverse: run from data to source.
            cond: name -> (B, ...).
            generator: source of the noise.

        Returns:
            The end; both networks count as evaluations.

        Raises:
            ConfigError: fewer steps than 1.
            NonFiniteError: the state became NaN or infinite; the message names the step.
        """
        grid = time_grid(steps)
        grid = grid.flip(0) if reverse else grid
        h, scale = (-1 if reverse else 1) / steps, self.bridge.sigma / math.sqrt(steps)
        for step, time in enumerate(grid[:-1].tolist()):
            # The networks never saw times nearer to the ends than the bridge's margin.
            inside = min(max(time, self.bridge.margin), 1 - self.bridge.margin)
            t = torch.full((batch_size(x),), inside, device=device_of(x), dtype=time_dtype(x))
            drift = self.drift(x, t, reverse=reverse, **(cond or {}))
            x = map_state(lambda part, slope: part + h * slope + scale * _normal_like(part, generator), x, drift)
            if not all(bool(part.isfinite().all()) for part in parts(x)):
                raise NonFiniteError(
                    f"the state became NaN or infinite at step {step + 1} of {steps}, t = {time:g}; "
                    "check the networks' outputs there, or take more steps"
                )
        return Solution(x, 2 * steps, grid)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
