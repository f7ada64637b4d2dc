"""Unbalanced coupling: outliers are left out, limits are known, and the batch stays a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.couplings import EntropicOT, UnbalancedOT
from rectiflow.errors import ConfigError, ConvergenceError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_outlier(count: int = 32) -> tuple[Tensor, Tensor]:
    """Two clouds; the last data row is far from everything."""
    g = seeded()
    x0, x1 = torch.randn(count, 2, generator=g), 1 + torch.randn(count, 2, generator=g)
    x1[-1] = 40.0
    return x0, x1


def test_a_data_outlier_is_dropped_and_every_source_stays() -> None:
    x0, x1 = with_outlier()
    g, relaxed, fixed = seeded(), UnbalancedOT(0.05), EntropicOT(0.05)
    for _ in range(20):
        coupled = relaxed(x0, x1, generator=g)
        assert coupled.x0 is x0
        assert coupled.x1.shape == x1.shape
        assert torch.equal(coupled.x1, x1[coupled.index])
        assert 31 not in coupled.index.tolist()
    plan, balanced = relaxed.plan(x0, x1).matrix, fixed.plan(x0, x1).matrix
    torch.testing.assert_close(plan.sum(1), torch.full((32,), 1 / 32), rtol=0, atol=1e-6)
    assert float(plan[:, -1].sum()) < 1e-6
    assert float(balanced[:, -1].sum()) == pytest.approx(1 / 32)


def test_infinite_penalties_are_the_entropic_coupling() -> None:
    x0, x1 = with_outlier()
    coupled = UnbalancedOT(math.inf, regularisation=0.1)(x0, x1, generator=seeded())
    assert torch.equal(coupled.index, EntropicOT(0.1)(x0, x1, generator=seeded()).index)
    soft = UnbalancedOT(1e6, source_penalty=1e6, regularisation=0.1).plan(x0, x1).matrix
    torch.testing.assert_close(soft, EntropicOT(0.1).plan(x0, x1).matrix, rtol=1e-3, atol=1e-5)


def test_a_cheap_marginal_sends_everything_to_the_nearest() -> None:
    """Without a price on the data's marginal each source chooses freely: P[i, j] is softmax(-C[i, j] / reg) / B."""
    x0, x1 = with_outlier()
    cost = torch.cdist(x0, x1).square()
    free = UnbalancedOT(1e-9, regularisation=2.0, relative=False).plan(x0, x1).matrix
    torch.testing.assert_close(free, (-cost / 2.0).softmax(1) / 32, rtol=1e-6, atol=1e-12)


def test_with_both_marginals_relaxed_sources_come_by_their_mass() -> None:
    x0, x1 = with_outlier()
    x0[0] = -60.0
    coupling = UnbalancedOT(0.05, source_penalty=0.05, condition_weight=0.0)
    mass = coupling.plan(x0, x1).matrix.sum(1)
    expected = 32 * mass / mass.sum()
    counts = []
    for seed in range(60):
        coupled = coupling(x0, x1, {"row": torch.arange(32)}, generator=seeded(seed))
        assert coupled.x0.shape == x0.shape
        assert coupled.cond is not None
        assert torch.equal(coupled.cond["row"], coupled.index)
        rows = (coupled.x0[:, None] == x0).all(-1).double().argmax(1)
        count = torch.bincount(rows, minlength=32)
        assert bool((count >= expected.floor()).all() and (count <= expected.ceil()).all())
        assert torch.equal(rows, rows.sort().values)
        counts.append(count.double())
    spread = torch.stack(counts)
    assert float(spread[:, 0].sum()) == 0
    assert bool(((spread.mean(0) - expected).abs() < 4.5 * 0.5 / math.sqrt(60)).all())


def test_pairs_follow_the_plan_when_rows_are_drawn_by_mass() -> None:
    g = seeded(3)
    x0, x1 = torch.randn(5, 1, generator=g), torch.randn(5, 1, generator=g)
    coupling = UnbalancedOT(0.2, source_penalty=0.2, regularisation=0.2)
    plan = coupling.plan(x0, x1).matrix
    seen, draws = torch.zeros(5, 5), 300
    for _ in range(draws):
        coupled = coupling(x0, x1, generator=g)
        for row, column in zip((coupled.x0 == x0.T).double().argmax(1), coupled.index, strict=True):
            seen[row, column] += 1 / (5 * draws)
    chance = plan / plan.sum()
    assert bool(((seen - chance).abs() < 4.5 * (chance / (5 * draws)).sqrt() + 1e-3).all())


def test_classes_are_kept_and_bad_input_is_named() -> None:
    x0, x1 = with_outlier()
    label = torch.arange(32) % 2
    coupled = UnbalancedOT(0.1)(x0, x1, {"label": label}, generator=seeded())
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["label"], label)
    for name in ("data_penalty", "source_penalty", "regularisation"):
        with pytest.raises(ConfigError, match=f"{name} is 0.*above 0"):
            UnbalancedOT(**{name: 0.0})
    with pytest.raises(ConvergenceError, match="after"):
        UnbalancedOT(regularisation=1e-3, max_iterations=3)(x0, x1, generator=seeded())
