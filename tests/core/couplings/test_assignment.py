"""The exact assignment against scipy's own, on costs of every kind that the prices could spoil."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.couplings.assignment import _priced, assignment

SIZE = 160


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).square()


def classes(cost: Tensor) -> Tensor:
    label = torch.arange(len(cost)) % 4
    return cost.masked_fill(label[:, None] != label, math.inf)


def outlier() -> Tensor:
    data = draw(SIZE, 8)
    data[3] *= 1e4
    return squares(draw(SIZE, 7)[:, :7], data[:, :7])


COSTS = {
    "shifted normals": squares(draw(SIZE, 64), 1 + 2 * draw(SIZE, 64)),
    "plane": squares(draw(SIZE, 2), 3 + draw(SIZE, 2)),
    "two clusters": squares(draw(SIZE, 3), torch.sign(draw(SIZE, 3)) * 5),
    "outlier": outlier(),
    "classes": classes(squares(draw(SIZE, 5), draw(SIZE, 6)[:, :5])),
    "ties": draw(SIZE, SIZE).round(),
    "constant": torch.full((SIZE, SIZE), 2.5, dtype=torch.float64),
    "negative": -squares(draw(SIZE, 2), draw(SIZE, 2)),
    "tiny": 1e-200 * squares(draw(SIZE, 9), draw(SIZE, 9) + 1),
    "huge": 1e200 * squares(draw(SIZE, 9), draw(SIZE, 9) + 1),
    "small batch": squares(draw(7, 3), draw(7, 3) + 1),
    "one row": torch.ones(1, 1, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", COSTS)
def test_the_total_is_the_least_there_is(kind: str) -> None:
    cost = COSTS[kind]
    rows, columns = linear_sum_assignment(cost.numpy())
    least, found = cost[rows, columns].sum(), assignment(cost)
    assert found.sort().values.tolist() == list(range(len(cost)))
    assert float(cost[torch.arange(len(cost)), found].sum()) == pytest.approx(float(least), rel=1e-12, abs=1e-250)


def test_where_the_answer_is_unique_it_is_scipys() -> None:
    cost = COSTS["shifted normals"]
    assert torch.equal(assignment(cost), torch.from_numpy(linear_sum_assignment(cost.numpy())[1]))


@pytest.mark.parametrize("kind", ["shifted normals", "plane", "classes", "outlier"])
def test_prices_leave_no_negative_cost_and_little_along_the_solution(kind: str) -> None:
    cost = COSTS[kind]
    priced, columns = _priced(cost), assignment(cost)
    assert float(priced.min()) == 0.0
    assert float(priced.amin(1).abs().max()) == 0.0
    assert torch.equal(priced.isinf(), cost.isinf())
    left = priced[torch.arange(SIZE), columns].mean()
    assert float(left) < 0.02 * float(priced[priced.isfinite()].mean())


def test_prices_change_all_assignments_by_the_same_amount() -> None:
    cost = COSTS["plane"]
    change = cost - _priced(cost)
    rows = torch.arange(SIZE)
    orders = [torch.randperm(SIZE, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    totals = torch.stack([change[rows, order].sum() for order in orders])
    torch.testing.assert_close(totals, totals[0].expand(4), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [4, SIZE])
def test_forbidden_rows_are_refused(size: int) -> None:
    cost = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
    cost[1] = math.inf
    with pytest.raises(ValueError, match="infeasible"):
        assignment(cost)


def test_the_costs_stay_as_they_were() -> None:
    cost = COSTS["plane"].clone()
    assignment(cost)
    assert torch.equal(cost, COSTS["plane"])
