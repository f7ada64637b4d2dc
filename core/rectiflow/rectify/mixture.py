"""Pairs of several stores side by side, each in its share: real data, carried back to noise, among the teacher's samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.batch import Batch, map_state
from rectiflow.conditions import take
from rectiflow.errors import ConfigError
from rectiflow.rectify.selection import Pairs


@dataclass(frozen=True)
class _Part:
    pairs: Pairs
    first: int
    count: int


class Mixture:
    """Pairs of several stores, each drawn in its share, for example 0.3 of inverted data beside 0.7 of samples.

    Args:
        parts: (pairs, share); shares are above 0 and sum to 1.

    Raises:
        ConfigError: other shares, or no parts.
    """

    replacement = True

    def __init__(self, parts: Sequence[tuple[Pairs, float]]) -> None:
        shares = [share for _, share in parts]
        if not parts or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ConfigError(f"shares of a mixture are {shares}; they must be above 0 and sum to 1")
        # Long enough that every pair of every part has a number of its own; a part's pairs share its numbers evenly.
        length = max(math.ceil(len(pairs) / share) for pairs, share in parts)
        self._parts: list[_Part] = []
        first = 0
        for pairs, share in parts:
            count = max(1, round(share * length))
            self._parts.append(_Part(pairs, first, count))
            first += count
        self._length = first
        self.provenance = {
            "mixture": [{"share": share, "pairs": len(pairs), **pairs.provenance} for pairs, share in parts]
        }

    def __len__(self) -> int:
        return self._length

    def __getitems__(self, indices: list[int]) -> Batch:
        """The pairs of these numbers."""
        wanted = torch.tensor(indices)
        batches, places = [], []
        for part in self._parts:
            mine = torch.nonzero((wanted >= part.first) & (wanted < part.first + part.count))[:, 0]
            if len(mine):
                rows = (wanted[mine] - part.first) * len(part.pairs) // part.count
                batches.append(part.pairs.__getitems__(rows.tolist()))
                places.append(mine)
        return _in_order(batches, torch.cat(places).argsort())


def _in_order(batches: list[Batch], order: Tensor) -> Batch:
    """One batch of all, its rows in the order asked for."""

    def rows(*states: Tensor) -> Tensor:
        return torch.cat(states)[order]

    cond = {name: torch.cat([batch.cond[name] for batch in batches]) for name in batches[0].cond}
    return Batch(
        x1=map_state(rows, *(batch.x1 for batch in batches)),
        cond=take(cond, order),
        x0=map_state(rows, *(batch.x0 for batch in batches)),
    )
