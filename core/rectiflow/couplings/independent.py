"""The product coupling."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rectiflow.batch import Cond, Mask, State, batch_size, device_of
from rectiflow.couplings.coupling import Coupled, Coupling
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class Independent(Coupling):
    """Row i with row i: the product coupling when both batches were drawn independently."""

    independent = True

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
        """The batch as it is; nothing is drawn."""
        return Coupled(x0, x1, cond, torch.arange(batch_size(x1), device=device_of(x1)))
