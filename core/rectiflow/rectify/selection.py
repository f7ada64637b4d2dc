"""Which pairs to train on: the best of them, by a score that a domain knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond, State
from rectiflow.errors import ConfigError

Score = Callable[[State, Cond], Tensor]


class Pairs(Protocol):
    """Pairs that a training reads by number: a store, a selection of one, or a mixture."""

    replacement: bool

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the pairs come from, in plain types."""
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch:
        """The pairs of these numbers."""
        ...


class Selection:
    """Some of the pairs of a store, by number; it is read like one.

    Args:
        pairs: the store.
        kept: (n,) numbers of pairs.
        provenance: how they were chosen, in plain types.
    """

    replacement = True

    def __init__(self, pairs: Pairs, kept: Tensor, provenance: dict[str, Any]) -> None:
        self.pairs = pairs
        self.kept = kept
        self.provenance = {**pairs.provenance, **provenance}

    def __len__(self) -> int:
        return len(self.kept)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The pairs of these numbers among those kept."""
        return self.pairs.__getitems__(self.kept[indices].tolist())


def score_pairs(pairs: Pairs, score: Score, *, batch: int = 500) -> Tensor:
    """Scores (N,) of all pairs: a function of samples (n, ...) and their conditions, higher for better.

    Raises:
        ConfigError: a score of another shape than (n,), or one that is not a number.
    """
    scores = []
    for rows in torch.split(torch.arange(len(pairs)), batch):
        found = pairs.__getitems__(rows.tolist())
        values = score(found.x1, found.cond)
        if values.shape != rows.shape:
            raise ConfigError(
                f"score gave shape {tuple(values.shape)} for {len(rows)} pairs; it must give ({len(rows)},)"
            )
        scores.append(values.detach().cpu().double())
    together = torch.cat(scores)
    if bool(together.isnan().any()):
        raise ConfigError(f"score gave NaN for {int(together.isnan().sum())} of {len(pairs)} pairs")
    return together


def select_pairs(pairs: Pairs, scores: Tensor, *, share: float | None = None, least: float | None = None) -> Selection:
    """The best share of the pairs, or those with at least some score; provenance says how many of how many.

    Args:
        pairs: the store.
        scores: (N,), see `score_pairs`.
        share: of the pairs to keep, above 0, at most 1; of equal scores the first are kept.
        least: the least score that is kept; give this or `share`.

    Raises:
        ConfigError: both or neither, a share that is not allowed, or nothing kept.
    """
    if share is not None and least is None:
        if not 0 < share <= 1:
            raise ConfigError(f"share of pairs to keep is {share}; allowed: above 0, at most 1")
        count = math.ceil(share * len(pairs) - 1e-9)
        kept = torch.sort(scores, descending=True, stable=True).indices[:count].sort().values
    elif least is not None and share is None:
        kept = torch.nonzero(scores >= least)[:, 0]
    else:
        seen = "neither" if share is None else "both"
        raise ConfigError(f"select_pairs got {seen} of share and least; give one of them")
    if not len(kept):
        raise ConfigError(f"no pair has a score of {least}; the best of {len(pairs)} has {float(scores.max()):.4g}")
    facts = {"kept": len(kept), "of": len(pairs), "least_score": float(scores[kept].min())}
    return Selection(pairs, kept, {"selection": facts})
