"""What a coupling is: a rule that pairs sources with data, and the batch that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, map_state
from rectiflow.conditions import take
from rectiflow.spaces.space import Space


class Coupled(NamedTuple):
    """A coupled batch: x0[i] goes with x1[i] and cond[i]; `index[i]` is the row of the given x1 that x1[i] was."""

    x0: State
    x1: State
    cond: Cond | None
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, on purpose


class Coupling(ABC):
    """A rule that pairs sources with data inside a batch; conditions travel with x1.

    The batch keeps its size. x1 comes back as rows of the given x1, named by `index`, so that whatever else belongs to the data
    (masks, labels) can follow; x0 may come back reordered, within samples too, or with rows used several times.
    """

    independent: bool
    """Whether x0 stays independent of x1, which the score and noise conversions of a flow rely on."""

    @abstractmethod
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
        """Couple a batch of sources (B, ...) with a batch of data (B, ...).

        Args:
            x0: sources; row i counts as drawn for cond[i].
            x1: data.
            cond: name -> (B, ...).
            mask: bool, shape a prefix of x1's, True where x1 holds data, or one a component; the rest must not decide
                anything.
            space: where x0 and x1 live, whose distances are the costs; None takes their entries for flat coordinates.
            generator: source of randomness, for couplings that draw.
        """


def with_data_rows(x0: State, x1: State, cond: Cond | None, index: Tensor) -> Coupled:
    """x0 beside the rows `index` (B,) of x1 and of the conditions."""
    return Coupled(x0, map_state(lambda part: part[index], x1), None if cond is None else take(cond, index), index)
