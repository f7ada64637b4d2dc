"""Entropic optimal transport inside a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, device_of
from rectiflow.couplings.costs import check_condition_weight, pairing_costs
from rectiflow.couplings.coupling import Coupled, Coupling, with_data_rows
from rectiflow.couplings.plans import Plan, sinkhorn
from rectiflow.errors import ConfigError
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class EntropicOT(Coupling):
    """Pairs drawn from the batch's entropic transport plan (arXiv 1306.0895), between optimal (0) and independent (infinity).

    Args:
        regularisation: weight of the plan's entropy, above 0.
        relative: whether the regularisation counts in units of the batch's mean squared distance, which keeps its meaning
            in any dimension, or in squared units of the data.
        replacement: True draws a partner for each source from its row of the plan: sources keep their law and pairs have
            exactly the plan's, but a data row may come twice or not at all. False uses every row of both once, by assignment
            under Gumbel noise (perturb-and-MAP): a random permutation between the optimal and a uniform one, whose pairs
            follow the plan only nearly; it needs no Sinkhorn iteration.
        condition_weight: cost of a mismatch of conditions, as in `MinibatchOT`.
        tolerance: marginal error at which the plan counts as converged; total mass is 1.
        max_iterations: after so many iterations of `sinkhorn` an unconverged plan is an error.
    """

    regularisation: float = 0.05
    relative: bool = True
    replacement: bool = True
    condition_weight: float = math.inf
    tolerance: float = 1e-6
    max_iterations: int = 1000
    independent = False

    def __post_init__(self) -> None:
        check_condition_weight(self.condition_weight)
        if not self.regularisation > 0:
            raise ConfigError(f"regularisation is {self.regularisation}; it must be above 0 (MinibatchOT is its limit)")

    def plan(
        self, x0: State, x1: State, cond: Cond | None = None, *, mask: Mask = None, space: Space | None = None
    ) -> Plan:
        """The plan (B, B), rows of x0 by rows of x1, each with marginal 1 / B.

        Raises:
            ConvergenceError: it did not converge.
        """
        cost, regularisation = self._problem(x0, x1, cond, mask, space)
        return sinkhorn(cost, regularisation, tolerance=self.tolerance, max_iterations=self.max_iterations)

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
        """x0 as it is, beside partners drawn from the plan.

        Raises:
            ConfigError: shapes differ, or an infinite condition weight meets a real-valued condition.
            ConvergenceError: the plan did not converge.
            NonFiniteError: a state holds NaN or infinity.
        """
        device = device_of(x1)
        if self.replacement:
            index = draw_by_rows(self.plan(x0, x1, cond, mask=mask, space=space).matrix, generator, device)
        else:
            index = _perturbed_assignment(*self._problem(x0, x1, cond, mask, space), generator, device)
        return with_data_rows(x0, x1, cond, index)

    def _problem(
        self, x0: State, x1: State, cond: Cond | None, mask: Mask, space: Space | None
    ) -> tuple[Tensor, float]:
        cost, scale = pairing_costs(x0, x1, cond, mask, self.condition_weight, space)
        return cost, self.regularisation * (scale if self.relative else 1.0)


def draw_by_rows(plan: Tensor, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """For each row of a plan (n, m), one column drawn from it: (n,) on the generator's device."""
    cumulative = plan.cumsum(1)
    uniform = torch.rand(len(plan), generator=generator, device=device, dtype=torch.float32).to(cumulative)
    # Scaled by the row's own total, so that a uniform number below 1 always finds a column, and one with mass.
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp(max=plan.shape[1] - 1).to(device)


def _perturbed_assignment(
    cost: Tensor, regularisation: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """The best permutation (n,) of the plan's logarithm plus Gumbel noise; the potentials in it move all permutations alike."""
    uniform = torch.rand(cost.shape, generator=generator, device=device, dtype=torch.float32).to(cost)
    gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-12)))
    index = linear_sum_assignment((gumbel - cost / regularisation).cpu().numpy(), maximize=True)[1]
    return torch.from_numpy(index).to(device)
