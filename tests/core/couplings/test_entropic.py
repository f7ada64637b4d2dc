"""Entropic coupling: pairs follow the plan, marginals and conditions are kept, and the limits are known couplings."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from rectiflow.couplings import EntropicOT, MinibatchOT, sinkhorn
from rectiflow.diagnostics import transport_cost
from rectiflow.errors import ConfigError, ConvergenceError, NonFiniteError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    g = seeded(seed)
    return torch.randn(count, *shape, generator=g), 1 + 2 * torch.randn(count, *shape, generator=g)


def frequencies(coupling: EntropicOT, x0: Tensor, x1: Tensor, draws: int) -> Tensor:
    """How often row i met row j, as a share of all draws."""
    g, n = seeded(5), len(x0)
    counts = torch.zeros(n, n)
    for _ in range(draws):
        counts[torch.arange(n), coupling(x0, x1, generator=g).index] += 1
    return counts / draws


def test_partners_are_drawn_from_the_rows_of_the_plan() -> None:
    x0, x1 = clouds(5, (2,))
    plan = EntropicOT(0.3).plan(x0, x1)
    cost = torch.cdist(x0, x1).square()
    torch.testing.assert_close(plan.matrix, sinkhorn(cost, 0.3 * float(cost.mean())).matrix)
    seen = frequencies(EntropicOT(0.3), x0, x1, 400)
    chance = 5 * plan.matrix
    assert bool(((seen - chance).abs() < 4.5 * (chance * (1 - chance) / 400).sqrt() + 1e-3).all())


def test_without_replacement_every_row_is_used_once_and_pairs_nearly_follow_the_plan() -> None:
    x0, x1 = clouds(6, (2,), seed=3)
    coupling = EntropicOT(0.5, replacement=False)
    g = seeded()
    for _ in range(50):
        assert sorted(coupling(x0, x1, generator=g).index.tolist()) == list(range(6))
    seen = frequencies(coupling, x0, x1, 1000)
    chance = 6 * coupling.plan(x0, x1).matrix
    assert float((seen - chance).abs().sum()) / 6 < 0.15
    best = torch.zeros(6, 6)
    best[torch.arange(6), MinibatchOT()(x0, x1).index] = 1
    assert float((best - chance).abs().sum()) / 6 > 0.8


@pytest.mark.parametrize("replacement", [True, False])
def test_much_entropy_pairs_at_random(replacement: bool) -> None:
    x0, x1 = clouds(4, (2,))
    seen = frequencies(EntropicOT(1e5, replacement=replacement), x0, x1, 600)
    assert bool(((seen - 0.25).abs() < 4.5 * math.sqrt(0.25 * 0.75 / 600)).all())


@pytest.mark.parametrize("replacement", [True, False])
def test_little_entropy_is_the_assignment(replacement: bool) -> None:
    x0, x1 = clouds(8, (2,), seed=4)
    coupled = EntropicOT(1e-3, replacement=replacement)(x0, x1, generator=seeded())
    assert torch.equal(coupled.index, MinibatchOT()(x0, x1).index)


@pytest.mark.parametrize("replacement", [True, False])
def test_rows_travel_together_and_sources_stay(replacement: bool) -> None:
    x0, x1 = clouds(40, (2, 3, 4))
    cond = {"label": torch.arange(40) % 3, "row": x1[:, 0, 0, :2].clone()}
    coupled = EntropicOT(0.2, replacement=replacement, condition_weight=1.0)(x0, x1, cond, generator=seeded())
    assert coupled.x0 is x0
    assert torch.equal(coupled.x1, x1[coupled.index])
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["row"], coupled.x1[:, 0, 0, :2])
    assert torch.equal(coupled.cond["label"], cond["label"][coupled.index])


@pytest.mark.parametrize("replacement", [True, False])
def test_the_generator_decides(replacement: bool) -> None:
    x0, x1 = clouds(32, (2,))
    coupling = EntropicOT(0.3, replacement=replacement)
    state = torch.get_rng_state()
    first, again, other = (coupling(x0, x1, generator=seeded(seed)).index for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_relative_regularisation_does_not_see_the_units_of_the_data() -> None:
    x0, x1 = clouds(16, (8,))
    scale = float(torch.cdist(x0, x1).square().mean())
    plan = EntropicOT(0.1).plan(x0, x1).matrix
    torch.testing.assert_close(EntropicOT(0.1).plan(100 * x0, 100 * x1).matrix, plan)
    torch.testing.assert_close(EntropicOT(0.1).plan(x0 + 50, x1 + 50).matrix, plan)
    torch.testing.assert_close(EntropicOT(0.1 * scale, relative=False).plan(x0, x1).matrix, plan)


def test_cost_lies_between_optimal_and_independent() -> None:
    x0, x1 = clouds(128, (2,))
    optimal = MinibatchOT()(x0, x1)
    entropic = EntropicOT(0.05)(x0, x1, generator=seeded())
    shuffled = EntropicOT(0.05, replacement=False)(x0, x1, generator=seeded())
    for coupled in (entropic, shuffled):
        assert float(transport_cost(coupled.x0, coupled.x1)) < 0.8 * float(transport_cost(x0, x1))
    assert float(transport_cost(shuffled.x0, shuffled.x1)) > float(transport_cost(optimal.x0, optimal.x1))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("weight", [math.inf, 0.0])
def test_given_the_class_the_source_stays_standard_normal(weight: float, replacement: bool) -> None:
    """Classes at -5 and 5: with the condition kept the source is normal in each, without it each class takes one half."""
    g, coupling = seeded(7), EntropicOT(0.05, condition_weight=weight, replacement=replacement)
    sources, labels = [], []
    for _ in range(100):
        label = torch.randint(0, 2, (64,), generator=g)
        x1 = (label * 10 - 5)[:, None] + torch.randn(64, 1, generator=g)
        coupled = coupling(torch.randn(64, 1, generator=g), x1, {"label": label}, generator=g)
        assert coupled.cond is not None
        assert weight == 0 or torch.equal(coupled.cond["label"], label)
        assert torch.equal(coupled.cond["label"] == 1, coupled.x1[:, 0] > 0)
        sources.append(coupled.x0[:, 0])
        labels.append(coupled.cond["label"])
    x0, label = torch.cat(sources), torch.cat(labels)
    for value, sign in ((0, -1), (1, 1)):
        mine = x0[label == value]
        n = len(mine)
        if weight == 0:
            assert sign * float(mine.mean()) > 0.5
            continue
        assert abs(float(mine.mean())) < 4 / math.sqrt(n)
        assert abs(float(mine.var()) - 1) < 4 * math.sqrt(2 / n)
        assert stats.kstest(mine.numpy(), "norm").pvalue > 0.001


@pytest.mark.parametrize("replacement", [True, False])
def test_padding_is_no_distance(replacement: bool) -> None:
    """What stands in x1's padding, and x0 beside it, does not enter the plan."""
    x0, x1 = clouds(12, (4, 2))
    mask = torch.arange(4)[None] < (torch.arange(12)[:, None] % 4 + 1)
    dirty = torch.where(mask[..., None], x1, math.nan)
    coupling = EntropicOT(0.1, replacement=replacement)
    coupled = coupling(x0, dirty, mask=mask, generator=seeded())
    by_hand = torch.stack(
        [torch.stack([(x0[i] - x1[j])[mask[j]].square().sum() for j in range(12)]) for i in range(12)]
    )
    torch.testing.assert_close(
        coupling.plan(x0, dirty, mask=mask).matrix, sinkhorn(by_hand, 0.1 * float(by_hand.mean())).matrix
    )
    assert torch.equal(coupled.index, coupling(x0, 7 * (~mask)[..., None] + x1, mask=mask, generator=seeded()).index)


def test_dict_states_and_half_precision_share_the_same_plan() -> None:
    first, second = clouds(10, (2,)), clouds(10, (3,), seed=9)
    x0, x1 = ({"b": first[i], "a": second[i]} for i in (0, 1))
    joined = [torch.cat([first[i], second[i]], 1) for i in (0, 1)]
    coupled = EntropicOT(0.2)(x0, x1, generator=seeded())
    assert torch.equal(coupled.index, EntropicOT(0.2)(*joined, generator=seeded()).index)
    assert torch.equal(coupled.x1["a"], x1["a"][coupled.index])
    half = EntropicOT(0.2)(*(side.bfloat16() for side in joined), generator=seeded())
    assert half.x1.dtype == torch.bfloat16
    torch.testing.assert_close(
        EntropicOT(0.2).plan(*(side.bfloat16() for side in joined)).matrix,
        EntropicOT(0.2).plan(*(side.bfloat16().double() for side in joined)).matrix,
        rtol=1e-4,
        atol=1e-7,
    )


def test_bad_input_is_named() -> None:
    x0, x1 = clouds(16, (2,))
    with pytest.raises(ConfigError, match=r"regularisation is 0.*above 0"):
        EntropicOT(0.0)
    with pytest.raises(ConfigError, match=r"condition_weight is -1"):
        EntropicOT(condition_weight=-1)
    with pytest.raises(ConfigError, match=r"\(16, 2\) and \(3, 2\)"):
        EntropicOT()(x0, x1[:3])
    with pytest.raises(ConfigError, match=r"'speed' is real-valued.*finite"):
        EntropicOT()(x0, x1, {"speed": torch.rand(16)})
    with pytest.raises(NonFiniteError, match="NaN"):
        EntropicOT()(x0, torch.full((16, 2), math.nan))
    with pytest.raises(ConvergenceError, match="after"):
        EntropicOT(1e-4, max_iterations=10)(x0, x1, generator=seeded())
