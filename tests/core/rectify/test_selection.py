"""The best pairs, mixtures of stores, and pairs inverted from data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond, State
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.inverting import invert_pairs
from rectiflow.rectify.mixture import Mixture
from rectiflow.rectify.pairs import PairStore
from rectiflow.rectify.selection import score_pairs, select_pairs
from rectiflow.sampling import integrate
from rectiflow.training.batches import order_of


def store(folder: Path, count: int = 230, start: float = 0.0) -> PairStore:
    """Pairs that are told apart by their conditions."""

    def numbers(n: int, generator: torch.Generator) -> Cond:
        return {"number": start + torch.rand(n, generator=generator)}

    def velocity(x: Tensor, t: Tensor, number: Tensor) -> Tensor:
        return number[:, None] * torch.ones_like(x)

    return generate_pairs(
        Flow(velocity),
        folder,
        count=count,
        shape=(2,),
        steps=1,
        seed=1,
        conditions=numbers,
        shard_size=64,
        dtype="float64",
    )


def by_number(x1: State, cond: Cond) -> Tensor:
    return cond["number"]


def test_best_share(tmp_path: Path) -> None:
    pairs = store(tmp_path)
    scores = score_pairs(pairs, by_number, batch=50)
    kept = select_pairs(pairs, scores, share=0.3)
    everything = pairs.rows(list(range(230))).cond["number"]
    best = everything.sort(descending=True).values[:69]
    mine = kept.__getitems__(list(range(len(kept))))
    assert torch.equal(mine.cond["number"].sort(descending=True).values, best)
    assert torch.allclose(mine.x1 - mine.x0, mine.cond["number"][:, None].expand(69, 2))
    assert kept.provenance["selection"] == {"kept": 69, "of": 230, "least_score": float(best[-1])}
    assert kept.provenance["seed"] == 1
    assert order_of(kept, 8, 0).length == 69
    assert type(order_of(kept, 8, 0)) is type(order_of(pairs, 8, 0))


def test_least_score(tmp_path: Path) -> None:
    pairs = store(tmp_path)
    scores = score_pairs(pairs, by_number)
    kept = select_pairs(pairs, scores, least=0.75)
    assert len(kept) == int((scores >= 0.75).sum()) > 0
    with pytest.raises(ConfigError, match=r"no pair has a score of 2\.0"):
        select_pairs(pairs, scores, least=2.0)


def test_refused_scores_and_shares(tmp_path: Path) -> None:
    pairs = store(tmp_path)
    with pytest.raises(ConfigError, match=r"must give \(230,\)"):
        score_pairs(pairs, lambda x1, cond: x1)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="NaN for 230 of 230"):
        score_pairs(pairs, lambda x1, cond: cond["number"] * torch.nan)
    scores = score_pairs(pairs, by_number)
    for wrong in ({}, {"share": 0.5, "least": 0.1}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ConfigError, match=r"select_pairs got|share of pairs"):
            select_pairs(pairs, scores, **wrong)


def test_mixture_draws_in_its_shares_and_keeps_pairs_together(tmp_path: Path) -> None:
    first, second = store(tmp_path / "a"), store(tmp_path / "b", count=40, start=10.0)
    mixed = Mixture([(first, 0.7), (second, 0.3)])
    batch = mixed.__getitems__(list(range(len(mixed))))
    real = batch.cond["number"] >= 10
    assert float(real.double().mean()) == pytest.approx(0.3, abs=2 / len(mixed))
    assert torch.allclose(batch.x1 - batch.x0, batch.cond["number"][:, None].expand(len(mixed), 2))
    counts = batch.cond["number"].unique(return_counts=True)[1]
    assert len(counts) == 270
    shuffled = [len(mixed) - 1, 0, 17, len(mixed) - 5, 3]
    some = mixed.__getitems__(shuffled)
    assert torch.equal(some.x1, batch.x1[shuffled])
    assert isinstance(some.x0, Tensor)
    assert torch.equal(some.x0, batch.x0[shuffled])
    assert [part["share"] for part in mixed.provenance["mixture"]] == [0.7, 0.3]
    # Within a part every pair has its turn, as evenly as whole numbers allow.
    for part in (real, ~real):
        each = batch.cond["number"][part].unique(return_counts=True)[1]
        assert int(each.max() - each.min()) <= 1
    for shares in ((0.5, 0.6), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="sum to 1"):
            Mixture([(first, shares[0]), (second, shares[1])])


class Data:
    """Real data of the Gaussian flow, with a number each."""

    def __init__(self, oracle: Any, count: int) -> None:
        self.x1 = oracle.data(count).x1

    def __len__(self) -> int:
        return len(self.x1)

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(x1=self.x1[indices], cond={"number": torch.tensor(indices)})


def test_inverted_data_lead_back_to_the_data(oracle: Any, tmp_path: Path) -> None:
    exact = oracle.gaussian()
    flow = Flow(lambda x, t, number: exact.velocity(x, t))
    data = Data(oracle, 90)
    reports: list[int] = []
    pairs = invert_pairs(
        flow, tmp_path, data, steps=60, method="rk4", batch=20, shard_size=32, dtype="float64", progress=reports.append
    )
    batch = pairs.rows(list(range(90)))
    assert torch.equal(batch.x1, data.x1)
    assert torch.equal(batch.cond["number"], torch.arange(90))
    assert isinstance(batch.x0, Tensor)
    assert torch.allclose(batch.x0, (data.x1 - oracle.mean) / oracle.spread, atol=1e-5)
    forth = integrate(flow, batch.x0, steps=60, method="rk4", cond=batch.cond).x
    assert torch.allclose(forth, data.x1, atol=1e-6)
    assert reports[0] == 0
    assert reports[-1] == 90
    assert pairs.provenance["inverted"] is True
    # Finished stores are found, others refused.
    found: list[int] = []
    invert_pairs(flow, tmp_path, data, steps=60, method="rk4", shard_size=32, dtype="float64", progress=found.append)
    assert found == [90]
    with pytest.raises(ConfigError, match="steps is 60 there and 59 here"):
        invert_pairs(flow, tmp_path, data, steps=59, method="rk4", shard_size=32, dtype="float64")
    with pytest.raises(ConfigError, match="91 of 90"):
        invert_pairs(flow, tmp_path / "more", data, steps=2, count=91)
