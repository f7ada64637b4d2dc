"""The ends of a Schroedinger bridge between two laws (SB-CFM, arXiv 2302.00482; SF2M, 2307.03672)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rectiflow.batch import Cond, Mask, State
from rectiflow.couplings.coupling import Coupled, Coupling
from rectiflow.couplings.entropic import EntropicOT
from rectiflow.couplings.plans import Plan
from rectiflow.errors import ConfigError
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class SchroedingerBridge(Coupling):
    """The ends of the bridge with reference process sigma W, drawn from the batch's entropic plan with reg = 2 sigma^2.

    Given its ends the process is a Brownian bridge, so paths need latent noise sigma sqrt(t (1 - t)):
    `StochasticInterpolant(latent=BrownianLatent(sigma**2))`. `ScoreAndFlow` learns flow and diffusion of the bridge together.

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
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"sigma of a Schroedinger bridge is {self.sigma}; it must be positive and finite")

    def plan(
        self, x0: State, x1: State, cond: Cond | None = None, *, mask: Mask = None, space: Space | None = None
    ) -> Plan:
        """The plan (B, B), rows of x0 by rows of x1."""
        return self._entropic().plan(x0, x1, cond, mask=mask, space=space)

    def __call__(
        self,
        x0: State,
        x1: State,
        cond: Cond | None = None,
        *,
        mask: Mask = None,
        space: Space | None = None,
        generator: torch.Generator | None = None,
    ) -> Coupled:
        """x0 as it is, beside partners drawn from the plan; raises as `EntropicOT` does."""
        return self._entropic()(x0, x1, cond, mask=mask, space=space, generator=generator)

    def _entropic(self) -> EntropicOT:
        return EntropicOT(
            2 * self.sigma**2,
            relative=False,
            condition_weight=self.condition_weight,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
