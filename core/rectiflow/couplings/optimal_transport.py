"""Couplings: which source goes with which data point of a batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.batch import Cond, State, map_state, parts
from rectiflow.conditions import take
from rectiflow.errors import ConfigError, NonFiniteError


class Coupled(NamedTuple):
    """A coupled batch: x0[i] goes with x1[i] and cond[i]; `index[i]` is the row of the given x1 that x1[i] was."""

    x0: State
    x1: State
    cond: Cond | None
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, on purpose


class Coupling(ABC):
    """A rule that pairs the rows of x0 with the rows of x1; conditions travel with x1."""

    independent: bool
    """Whether x0 stays independent of x1, which the score and noise conversions of a flow rely on."""

    @abstractmethod
    def __call__(self, x0: State, x1: State, cond: Cond | None = None) -> Coupled:
        """Couple a batch of sources (B, ...) with a batch of data (B, ...)."""


@dataclass(frozen=True)
class Independent(Coupling):
    """Row i with row i: the product coupling when both batches were drawn independently."""

    independent = True

    def __call__(self, x0: State, x1: State, cond: Cond | None = None) -> Coupled:
        """The batch as it is."""
        size = parts(x1)[0].shape[0]
        return Coupled(x0, x1, cond, torch.arange(size, device=parts(x1)[0].device))


@dataclass(frozen=True)
class MinibatchOT(Coupling):
    """Exact optimal transport inside the batch, by assignment without replacement (OT-CFM, arXiv 2302.00482).

    A plain assignment ties noise to the condition, so that p(x0 | cond) is no longer the prior that sampling starts from.
    Row i of x0 therefore counts as drawn for cond[i], and pairing it with data of another condition costs extra (C2OT,
    arXiv 2503.10636).

    Args:
        condition_weight: cost of a mismatch, in units of the batch's mean transport cost: for integer conditions times the
            number of differing entries, for real ones times the squared distance. The default, infinity, never pairs
            across different integer conditions; for real conditions give a finite weight. 0 ignores conditions.
    """

    condition_weight: float = math.inf
    independent = False

    def __post_init__(self) -> None:
        if not self.condition_weight >= 0:
            raise ConfigError(f"condition_weight is {self.condition_weight}; allowed: 0 to infinity")

    def __call__(self, x0: State, x1: State, cond: Cond | None = None) -> Coupled:
        """The batch with x1 and cond permuted; the permutation is exact, every row is used once.

        Raises:
            ConfigError: batch sizes differ, or an infinite weight meets a real-valued condition.
            NonFiniteError: a state holds NaN or infinity.
        """
        first, second = _coordinates(x0), _coordinates(x1)
        if first.shape != second.shape:
            raise ConfigError(
                f"x0 and x1 have shapes {tuple(first.shape)} and {tuple(second.shape)} once flattened; they must agree"
            )
        # |x0|^2 and |x1|^2 add the same to every assignment, so the inner product alone decides it.
        cost = (-2 * first @ second.T).double().cpu().numpy()
        if not np.isfinite(cost).all():
            raise NonFiniteError("minibatch OT got a state with NaN or infinite values; check the data of this batch")
        if cond and self.condition_weight > 0:
            scale = float((first.square().sum(1).mean() + second.square().sum(1).mean()).item())
            cost += self._mismatch(cond, cost, scale)
        index = torch.from_numpy(linear_sum_assignment(cost)[1]).to(second.device)
        return Coupled(x0, map_state(lambda part: part[index], x1), None if cond is None else take(cond, index), index)

    def _mismatch(self, cond: Cond, cost: np.ndarray, scale: float) -> np.ndarray:
        total: np.ndarray = np.zeros_like(cost)
        for name, value in cond.items():
            rows = value.detach().cpu().flatten(1) if value.ndim > 1 else value.detach().cpu()[:, None]
            if not rows.is_floating_point():
                total += (rows[:, None] != rows[None]).sum(-1).numpy()
            elif math.isfinite(self.condition_weight):
                total += torch.cdist(rows.double(), rows.double()).square().numpy()
            else:
                raise ConfigError(
                    f"condition {name!r} is real-valued; give MinibatchOT a finite condition_weight (for example 1)"
                )
        # Infinite weight: one mismatch outweighs the whole spread of transport costs, so none is chosen while it can be avoided.
        forbidding = float(len(cost) * (cost.max() - cost.min()) + 1)
        return total * (self.condition_weight * scale if math.isfinite(self.condition_weight) else forbidding)


def _coordinates(state: State) -> Tensor:
    return torch.cat([part.detach().flatten(1) for part in parts(state)], dim=1)
