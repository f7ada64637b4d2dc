"""Partial transport against brute force, and what becomes of the rows that it drops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rectiflow.couplings import MinibatchOT, PartialOT
from rectiflow.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = seeded(seed)
    return torch.randn(count, 2, generator=g), torch.randn(count, 2, generator=g)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_are_the_cheapest_of_all(count: int, seed: int) -> None:
    x0, x1 = clouds(5, seed)
    cost = torch.cdist(x0, x1).square().tolist()
    best = min(
        sum(cost[i][j] for i, j in zip(rows, columns, strict=True))
        for rows in itertools.combinations(range(5), count)
        for columns in itertools.permutations(range(5), count)
    )
    rows, columns = PartialOT(count / 5).pairs(x0, x1)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == count
    found = sum(cost[i][j] for i, j in zip(rows.tolist(), columns.tolist(), strict=True))
    assert found == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.95])
def test_the_share_is_exact_and_the_batch_keeps_its_size(share: float) -> None:
    x0, x1 = clouds(40)
    rows, columns = PartialOT(share).pairs(x0, x1)
    partner = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    coupled = PartialOT(share, condition_weight=0.0)(x0, x1, {"row": torch.arange(40)}, generator=seeded())
    source = (coupled.x0[:, None] == x0).all(-1).double().argmax(1).tolist()
    assert len(partner) == round(share * 40)
    assert coupled.index.tolist() == [partner[row] for row in source]
    assert [source[row] for row in partner] == list(partner)
    counts = torch.bincount(coupled.index, minlength=40)[columns]
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(coupled.x1, x1[coupled.index])
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["row"], coupled.index)


def test_outliers_are_what_is_dropped() -> None:
    x0, x1 = clouds(30)
    x0[3], x1[7], x1[8] = -50.0, 50.0, 60.0
    coupled = PartialOT(0.9)(x0, x1, generator=seeded())
    assert not {7, 8} & set(coupled.index.tolist())
    assert float(coupled.x0.abs().max()) < 50


def test_the_whole_share_is_exact_transport() -> None:
    x0, x1 = clouds(20)
    cond = {"label": torch.arange(20) % 3}
    whole, exact = PartialOT(1.0)(x0, x1, cond, generator=seeded()), MinibatchOT()(x0, x1, cond)
    assert torch.equal(whole.index, exact.index)
    assert torch.equal(whole.x0, x0)


def test_pairs_stay_within_their_class() -> None:
    x0, x1 = clouds(40)
    label = torch.arange(40) % 4
    rows, columns = PartialOT(0.6).pairs(x0, x1, {"label": label})
    assert torch.equal(label[rows], label[columns])
    free_rows, free_columns = PartialOT(0.6, condition_weight=0.0).pairs(x0, x1, {"label": label})
    assert not torch.equal(label[free_rows], label[free_columns])


def test_the_generator_decides_what_is_repeated() -> None:
    x0, x1 = clouds(30)
    first, again, other = (PartialOT(0.6)(x0, x1, generator=seeded(seed)).index for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_shares_are_named() -> None:
    for share in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=f"share is {share}.*up to 1"):
            PartialOT(share)


def test_free_pairs_do_not_enlarge_the_share() -> None:
    x0 = torch.ones(10, 2)
    rows, columns = PartialOT(0.5).pairs(x0, x0.clone())
    assert len(rows) == len(columns) == 5
