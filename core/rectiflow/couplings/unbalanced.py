"""Unbalanced optimal transport inside a batch: rows that are far from everything may be left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, device_of, map_state
from rectiflow.couplings.costs import check_condition_weight, pairing_costs
from rectiflow.couplings.coupling import Coupled, Coupling, with_data_rows
from rectiflow.couplings.entropic import draw_by_rows
from rectiflow.couplings.plans import Plan, sinkhorn
from rectiflow.errors import ConfigError
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class UnbalancedOT(Coupling):
    """Pairs drawn from an entropic plan whose marginals may bend, at a price (arXiv 1607.05816).

    The price is a penalty times the Kullback-Leibler divergence of the bent marginal from the uniform one. A data row far
    from all sources loses mass and is drawn seldom, which keeps outliers from bending the paths. With the default
    source_penalty every source is used once, so that the law of x0 stays the one that sampling starts from; a finite one also
    drops sources, whose rows are then drawn by their mass with systematic resampling. Either way the batch keeps its size:
    rows with more mass than 1 / B come several times, in place of those that were dropped.

    Args:
        data_penalty: price of bending the data's marginal, above 0; infinity keeps it.
        source_penalty: the same for the sources.
        regularisation: weight of the plan's entropy, above 0.
        relative: whether penalties and regularisation count in units of the batch's mean squared distance, or in squared
            units of the data.
        condition_weight: cost of a mismatch of conditions, as in `MinibatchOT`.
        tolerance: residual at which the plan counts as converged; see `sinkhorn`.
        max_iterations: after so many iterations of `sinkhorn` an unconverged plan is an error.
    """

    data_penalty: float = 1.0
    source_penalty: float = math.inf
    regularisation: float = 0.05
    relative: bool = True
    condition_weight: float = math.inf
    tolerance: float = 1e-6
    max_iterations: int = 1000
    independent = False

    def __post_init__(self) -> None:
        check_condition_weight(self.condition_weight)
        for name in ("data_penalty", "source_penalty", "regularisation"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")

    def plan(
        self, x0: State, x1: State, cond: Cond | None = None, *, mask: Mask = None, space: Space | None = None
    ) -> Plan:
        """The plan (B, B), rows of x0 by rows of x1; its total may differ from 1 when both marginals bend.

        Raises:
            ConvergenceError: it did not converge.
        """
        cost, scale = pairing_costs(x0, x1, cond, mask, self.condition_weight, space)
        unit = scale if self.relative else 1.0
        return sinkhorn(
            cost,
            self.regularisation * unit,
            source_penalty=self.source_penalty * unit,
            data_penalty=self.data_penalty * unit,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )

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
        """B pairs drawn from the plan; `index` names the rows of x1.

        Raises:
            ConfigError: shapes differ, or an infinite condition weight meets a real-valued condition.
            ConvergenceError: the plan did not converge.
            NonFiniteError: a state holds NaN or infinity.
        """
        matrix = self.plan(x0, x1, cond, mask=mask, space=space).matrix
        device = device_of(x1)
        if math.isfinite(self.source_penalty):
            rows = _resample(matrix.sum(1), generator, device)
            matrix = matrix[rows.to(matrix.device)]
            x0 = map_state(lambda part: part[rows], x0)
        return with_data_rows(x0, x1, cond, draw_by_rows(matrix, generator, device))


def _resample(mass: Tensor, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Row numbers (n,), each within one of n times its share of the mass: systematic resampling."""
    cumulative = mass.cumsum(0)
    shift = torch.rand((), generator=generator, device=device, dtype=torch.float32).to(cumulative)
    positions = (torch.arange(len(mass), device=mass.device) + shift) / len(mass) * cumulative[-1]
    return torch.searchsorted(cumulative, positions, right=True).clamp(max=len(mass) - 1).to(device)
