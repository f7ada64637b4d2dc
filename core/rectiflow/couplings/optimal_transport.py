"""Exact optimal transport inside a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rectiflow.batch import Cond, Mask, State, device_of
from rectiflow.couplings.assignment import assignment
from rectiflow.couplings.costs import check_condition_weight, pairing_costs
from rectiflow.couplings.coupling import Coupled, Coupling, with_data_rows
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class MinibatchOT(Coupling):
    """Exact optimal transport inside the batch, by assignment without replacement (OT-CFM, arXiv 2302.00482).

    A plain assignment ties noise to the condition, so that p(x0 | cond) is no longer the prior that sampling starts from.
    Row i of x0 therefore counts as drawn for cond[i], and pairing it with data of another condition costs extra (C2OT,
    arXiv 2503.10636).

    Args:
        condition_weight: cost of a mismatch, in units of the batch's mean squared distance: for integer conditions times the
            number of differing entries, for real ones times the squared distance. The default, infinity, never pairs
            across different integer conditions; for real conditions give a finite weight. 0 ignores conditions.
    """

    condition_weight: float = math.inf
    independent = False

    def __post_init__(self) -> None:
        check_condition_weight(self.condition_weight)

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
        """The batch with x1 and cond permuted; the permutation is exact, every row is used once and nothing is drawn.

        Raises:
            ConfigError: batch sizes differ, or an infinite weight meets a real-valued condition.
            NonFiniteError: a state holds NaN or infinity.
        """
        cost, _ = pairing_costs(x0, x1, cond, mask, self.condition_weight, space)
        index = assignment(cost).to(device_of(x1))
        return with_data_rows(x0, x1, cond, index)
