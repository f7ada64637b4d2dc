"""Partial optimal transport inside a batch: only the share of rows that is cheapest to pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, batch_size, device_of, map_state
from rectiflow.couplings.costs import check_condition_weight, pairing_costs
from rectiflow.couplings.coupling import Coupled, Coupling, with_data_rows
from rectiflow.errors import ConfigError
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class PartialOT(Coupling):
    """Exact partial transport: the cheapest way to pair round(share B) sources with as many data rows (arXiv 2002.08276).

    The other sources and data rows are dropped from this batch: those whose pairing would cost most, so that outliers do not
    bend the paths. Mind that the sources that remain are not quite distributed as the prior is. The batch keeps its size:
    a source that was kept stays in its place, and the places of dropped sources repeat kept pairs, drawn evenly.

    Args:
        share: fraction of the batch to pair, in (0, 1]; 1 is `MinibatchOT`.
        condition_weight: cost of a mismatch of conditions, as in `MinibatchOT`.
    """

    share: float = 0.9
    condition_weight: float = math.inf
    independent = False

    def __post_init__(self) -> None:
        check_condition_weight(self.condition_weight)
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; allowed: above 0, up to 1")

    def pairs(
        self, x0: State, x1: State, cond: Cond | None = None, *, mask: Mask = None, space: Space | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows of x0 (k,), ascending, and the rows of x1 (k,) that they go with; k = round(share B), at least 1."""
        cost, _ = pairing_costs(x0, x1, cond, mask, self.condition_weight, space)
        count = max(1, round(self.share * batch_size(x1)))
        rows, columns = _cheapest_pairs(cost.cpu().numpy(), count)
        device = device_of(x1)
        return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)

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
        """B rows, each a kept pair; `index` names the rows of x1.

        Raises:
            ConfigError: shapes differ, or an infinite condition weight meets a real-valued condition.
            NonFiniteError: a state holds NaN or infinity.
        """
        rows, columns = self.pairs(x0, x1, cond, mask=mask, space=space)
        size, device = batch_size(x1), device_of(x1)
        order = torch.randperm(len(rows), generator=generator, device=device)
        dropped = torch.ones(size, dtype=torch.bool, device=device)
        dropped[rows] = False
        # Every kept pair is repeated as often as every other one, give or take one.
        refill = order.repeat(math.ceil(size / len(rows)))[: size - len(rows)]
        source, index = torch.empty((2, size), dtype=torch.long, device=device)
        source[rows], index[rows] = rows, columns
        source[dropped], index[dropped] = rows[refill], columns[refill]
        return with_data_rows(map_state(lambda part: part[source], x0), x1, cond, index)


def _cheapest_pairs(cost: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` pairs of a cost matrix (n, n) with the smallest sum, no row or column twice.

    n - count idle rows and columns, free for real ones and forbidden for each other, absorb what is to be dropped; then the
    complete assignment of the enlarged matrix is the partial one.
    """
    size = len(cost)
    enlarged = np.zeros((2 * size - count, 2 * size - count))
    enlarged[:size, :size] = cost
    enlarged[size:, size:] = np.inf
    rows, columns = linear_sum_assignment(enlarged)
    kept = (rows < size) & (columns < size)
    return rows[kept], columns[kept]
