"""Minibatch optimal transport: one whole call, from two batches to their pairs, and whether the plans cost the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.benchmarking.contest import OURS, Contest
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow.couplings import MinibatchOT

WIDTH = 64
BATCHES = 8


class Pairs(NamedTuple):
    """A coupled batch, and the mean squared distance of the plan that it was taken from."""

    x0: Tensor
    x1: Tensor
    plan_cost: Callable[[], float]


def transport(size: int, generator: torch.Generator) -> Contest:
    """Noise against a shifted, wider normal in 64 dimensions; the batches change from run to run, alike for all."""
    batches = [
        (torch.randn(size, WIDTH, generator=generator), 1 + 2 * torch.randn(size, WIDTH, generator=generator))
        for _ in range(BATCHES)
    ]
    makers: Makers[Callable[[], Pairs]] = {
        OURS: lambda: _ours(itertools.cycle(batches)),
        "torchcfm": lambda: _torchcfm(itertools.cycle(batches)),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "transport",
        f"exact plan, batch of {size}",
        runs,
        lambda ours, theirs: abs(theirs.plan_cost() - ours.plan_cost()) / ours.plan_cost(),
        tolerance=1e-6,
        unit="batch",
        figures=_figures,
        missing=missing,
        note="difference: of the plan's cost; torchcfm draws its pairs from the plan with replacement",
    )


def _ours(batches: itertools.cycle[tuple[Tensor, Tensor]]) -> Callable[[], Pairs]:
    coupling = MinibatchOT()

    def couple() -> Pairs:
        x0, x1 = next(batches)
        partner = x1[coupling(x0, x1).index]
        return Pairs(x0, partner, lambda: float((x0 - partner).double().square().sum(1).mean()))

    return couple


def _torchcfm(batches: itertools.cycle[tuple[Tensor, Tensor]]) -> Callable[[], Pairs]:
    from torchcfm.optimal_transport import OTPlanSampler

    sampler = OTPlanSampler(method="exact")

    def couple() -> Pairs:
        x0, x1 = next(batches)
        first, second = sampler.sample_plan(x0, x1)

        def plan_cost() -> float:
            plan = torch.from_numpy(sampler.get_map(x0, x1))
            return float((plan * torch.cdist(x0.double(), x1.double()).square()).sum())

        return Pairs(first, second, plan_cost)

    return couple


def _figures(pairs: Pairs) -> dict[str, float]:
    """Share of the data rows that the coupled batch holds, and the mean squared distance of its pairs."""
    used = len(torch.unique(pairs.x1, dim=0)) / len(pairs.x1)
    return {"rows_used": used, "pair_cost": float((pairs.x0 - pairs.x1).double().square().sum(1).mean())}
