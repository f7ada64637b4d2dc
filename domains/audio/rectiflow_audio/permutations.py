"""Stems in any order, as those of several speakers are: errors in the order in which they are least."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.predictions import Prediction
from rectiflow.spaces.euclidean import Euclidean


@dataclass(frozen=True)
class UnorderedStems(Euclidean):
    """Euclidean space of stems (B, K, ...), in which the order of a target's stems does not count.

    With it flow matching is trained as permutation-invariant training trains a regression (arXiv 1607.00325, section 3): the
    error is that of the order which suits the prediction best. At the start, where states say nothing of an order, the network
    chooses one, as in FLOSS (arXiv 2505.16119); later states show it.
    """

    def residual(self, prediction: Any, target: Any, kind: Prediction, x: Any) -> Any:
        """Difference of a prediction and its target, whose stems are ordered to suit it."""
        return prediction - arranged(target, orders(squared_distances(prediction.detach(), target)))


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """|first_k - second_j|^2 (B, K, K) of stems (B, K, ...)."""
    one, other = first.flatten(2).float(), second.flatten(2).float()
    squares = one.square().sum(2)[:, :, None] + other.square().sum(2)[:, None]
    return squares - 2 * one @ other.mT


def orders(costs: Tensor) -> Tensor:
    """For costs (B, K, K) of pairs (k, j) the permutation (B, K), k to j, of least sum; all K! are tried."""
    count = costs.shape[1]
    every = torch.tensor(list(itertools.permutations(range(count))), device=costs.device)
    sums = costs[:, torch.arange(count, device=costs.device), every].sum(2)
    return every[sums.argmin(1)]


def arranged(stems: Tensor, order: Tensor) -> Tensor:
    """Stems (B, K, ...) with stem order[b, k] in place k."""
    return stems[torch.arange(len(stems), device=stems.device)[:, None], order]


@torch.no_grad()
def best_arranged(truth: Tensor, estimate: Tensor) -> Tensor:
    """True waveforms (B, K, T) in the order in which estimates (B, K, T) have the highest mean SI-SDR.

    Ratios count from -30 to 60 dB, so that silence decides nothing.
    """
    # SI-SDR is that of the squared cosine c to the rest, c / (1 - c).
    energy = truth.square().sum(2)[:, None] * estimate.square().sum(2)[:, :, None]
    cosine = ((estimate @ truth.mT).square() / energy.clamp(min=1e-12)).clamp(1e-3, 1 - 1e-6)
    return arranged(truth, orders(torch.log10(1 - cosine) - torch.log10(cosine)))
