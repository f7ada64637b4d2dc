"""Couplings against brute force, sorting, and the law that sampling starts from."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from rectiflow.couplings import Independent, MinibatchOT
from rectiflow.diagnostics import transport_cost
from rectiflow.errors import ConfigError, NonFiniteError


def clouds(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=g), 1 + 2 * torch.randn(count, *shape, generator=g)


def test_independent_leaves_the_batch_alone() -> None:
    x0, x1 = clouds(5, (2,))
    cond = {"label": torch.arange(5)}
    coupled = Independent()(x0, x1, cond)
    assert coupled.x0 is x0
    assert coupled.x1 is x1
    assert coupled.cond is cond
    assert coupled.index.tolist() == [0, 1, 2, 3, 4]
    assert Independent().independent
    assert not MinibatchOT().independent


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all_permutations(seed: int) -> None:
    x0, x1 = clouds(6, (3,), seed)
    best = min(
        sum(float((x0[i] - x1[j]).square().sum()) for i, j in enumerate(order))
        for order in itertools.permutations(range(6))
    )
    coupled = MinibatchOT()(x0, x1)
    assert float(transport_cost(coupled.x0, coupled.x1)) * 6 == pytest.approx(best, rel=1e-12)
    assert torch.equal(coupled.x1, x1[coupled.index])
    assert torch.equal(coupled.x0, x0)


def test_on_the_line_optimal_transport_is_sorting() -> None:
    x0, x1 = clouds(100, (1,))
    coupled = MinibatchOT()(x0, x1)
    order = coupled.x0[:, 0].argsort()
    assert torch.equal(coupled.x1[order, 0], x1[:, 0].sort().values)


def test_every_data_row_is_used_once_with_its_condition_and_shape() -> None:
    x0, x1 = clouds(40, (2, 3, 4))
    cond = {"label": torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(0)), "row": torch.zeros(40, 2)}
    cond["row"] = x1[:, 0, 0, :2].clone()
    coupled = MinibatchOT(condition_weight=1.0)(x0, x1, cond)
    assert sorted(coupled.index.tolist()) == list(range(40))
    assert coupled.x1.shape == (40, 2, 3, 4)
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["row"], coupled.x1[:, 0, 0, :2])
    assert torch.equal(coupled.cond["label"], cond["label"][coupled.index])


@pytest.mark.parametrize("seed", range(5))
def test_cost_never_exceeds_the_independent_one(seed: int) -> None:
    x0, x1 = clouds(32, (4,), seed)
    coupled = MinibatchOT()(x0, x1)
    assert float(transport_cost(coupled.x0, coupled.x1)) < float(transport_cost(x0, x1))


def test_the_cost_approaches_the_squared_wasserstein_distance() -> None:
    """N(0, 1) to N(1, 4) on the line: W2^2 = 1 + (2 - 1)^2 = 2, the independent cost is 1 + 1 + 4 = 6."""
    costs = []
    for size in (8, 64, 512):
        batches = [clouds(size, (1,), seed) for seed in range(4096 // size)]
        coupled = [MinibatchOT()(x0, x1) for x0, x1 in batches]
        costs.append(sum(float(transport_cost(c.x0, c.x1)) for c in coupled) / len(coupled))
    assert 6 > costs[0] > costs[1] > costs[2]
    assert costs[2] == pytest.approx(2, abs=0.15)


def two_classes(weight: float) -> tuple[Tensor, Tensor]:
    """x0 and class of 200 coupled batches of 64; the classes lie at -5 and 5."""
    g = torch.Generator().manual_seed(7)
    sources, labels = [], []
    for _ in range(200):
        label = torch.randint(0, 2, (64,), generator=g)
        x1 = (label * 10 - 5)[:, None] + torch.randn(64, 1, generator=g)
        coupled = MinibatchOT(weight)(torch.randn(64, 1, generator=g), x1, {"label": label})
        assert coupled.cond is not None
        sources.append(coupled.x0[:, 0])
        labels.append(coupled.cond["label"])
    return torch.cat(sources), torch.cat(labels)


def test_given_the_class_the_source_stays_standard_normal() -> None:
    x0, label = two_classes(math.inf)
    for value in (0, 1):
        mine = x0[label == value]
        n = len(mine)
        assert abs(float(mine.mean())) < 4 / math.sqrt(n)
        assert abs(float(mine.var()) - 1) < 4 * math.sqrt(2 / n)
        assert stats.kstest(mine.numpy(), "norm").pvalue > 0.001


def test_ignoring_the_class_ties_the_source_to_it() -> None:
    """Sorting sends the lower half of a normal to the left class: conditional means near -+ sqrt(2 / pi)."""
    x0, label = two_classes(0.0)
    for value, sign in ((0, -1), (1, 1)):
        mine = x0[label == value]
        assert sign * float(mine.mean()) > 4 / math.sqrt(len(mine))
        assert float(mine.mean()) == pytest.approx(sign * math.sqrt(2 / math.pi), abs=0.06)


def test_an_infinite_weight_beats_any_distance() -> None:
    """Far apart as they are, rows keep their class, and within a class they are sorted."""
    x0 = torch.tensor([[0.0], [1e4], [1.0], [2e4]])
    x1 = torch.tensor([[5e4], [0.0], [-5e4], [1.0]])
    label = torch.tensor([0, 0, 1, 1])
    coupled = MinibatchOT()(x0, x1, {"label": label})
    assert coupled.index.tolist() == [1, 0, 2, 3]
    assert MinibatchOT(0.0)(x0, x1, {"label": label}).index.tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("real", [False, True])
def test_a_finite_weight_trades_distance_for_mismatch_in_units_of_the_batch_cost(real: bool) -> None:
    """Brute force over |x0 - x1|^2 + w scale mismatch, with the scale mean |x0_i - x1_j|^2 over all pairs."""
    x0, x1 = clouds(6, (2,), seed=3)
    g = torch.Generator().manual_seed(1)
    value = torch.randn(6, 2, generator=g) if real else torch.randint(0, 2, (6, 2), generator=g)
    changed = 0
    for weight in (0.1, 0.5, 3.0):
        scale = sum(float((v - w).square().sum()) for v in x0 for w in x1) / 36

        def total(order: tuple[int, ...], w: float = weight, unit: float = scale) -> float:
            mismatch = 0.0
            for i, j in enumerate(order):
                pairs = zip(value[i].tolist(), value[j].tolist(), strict=True)
                mismatch += sum((p - q) ** 2 if real else float(p != q) for p, q in pairs)
            return sum(float((x0[i] - x1[j]).square().sum()) for i, j in enumerate(order)) + w * unit * mismatch

        best = min(itertools.permutations(range(6)), key=total)
        assert MinibatchOT(weight)(x0, x1, {"value": value}).index.tolist() == list(best)
        changed += list(best) != MinibatchOT()(x0, x1).index.tolist()
    assert changed


def test_every_differing_entry_of_an_integer_condition_counts() -> None:
    """Swapping saves 18 of transport; the mean cost is 4.5, so weight 1 charges 27 for 6 differing entries and 9 for 2."""
    x0, x1 = torch.tensor([[0.0], [3.0]]), torch.tensor([[3.0], [0.0]])
    triple = {"code": torch.tensor([[0, 0, 0], [1, 1, 1]])}
    single = {"code": torch.tensor([0, 1])}
    assert MinibatchOT(1.0)(x0, x1, triple).index.tolist() == [0, 1]
    assert MinibatchOT(1.0)(x0, x1, single).index.tolist() == [1, 0]


def test_states_of_a_product_space_share_one_cost() -> None:
    first, second = clouds(6, (2,)), clouds(6, (3,), seed=9)
    x0, x1 = ({"b": first[i], "a": second[i]} for i in (0, 1))
    coupled = MinibatchOT()(x0, x1)
    joined = MinibatchOT()(torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1))
    assert torch.equal(coupled.index, joined.index)
    assert torch.equal(coupled.x1["a"], x1["a"][coupled.index])
    assert torch.equal(coupled.x1["b"], x1["b"][coupled.index])


def test_bad_input_is_named() -> None:
    x0, x1 = clouds(4, (2,))
    with pytest.raises(ConfigError, match=r"-1.*allowed"):
        MinibatchOT(-1)
    with pytest.raises(ConfigError, match="nan"):
        MinibatchOT(math.nan)
    with pytest.raises(ConfigError, match=r"\(4, 2\) and \(3, 2\)"):
        MinibatchOT()(x0, x1[:3])
    with pytest.raises(ConfigError, match=r"'speed' is real-valued.*finite"):
        MinibatchOT()(x0, x1, {"speed": torch.rand(4)})
    with pytest.raises(NonFiniteError, match="NaN"):
        MinibatchOT()(x0, torch.full((4, 2), math.nan))
