"""Sinkhorn plans against closed forms, a plain numpy iteration, direct minimisation of the objective, and their limits."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, minimize
from torch import Tensor

from rectiflow.couplings import sinkhorn
from rectiflow.errors import ConfigError, ConvergenceError


def costs(n: int, m: int, dimension: int = 2, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, dimension, generator=g), 1 + torch.randn(m, dimension, generator=g)
    return torch.cdist(x, y).square()


def weights(n: int, seed: int) -> Tensor:
    positive = 0.1 + torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return positive / positive.sum()


@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_two_points_have_a_closed_form(ratio: float) -> None:
    """Costs 0 on and c off the diagonal: by symmetry the off-diagonal share is 1 / (1 + exp(c / reg))."""
    plan = sinkhorn(torch.tensor([[0.0, 3.0], [3.0, 0.0]]), 3.0 / ratio, tolerance=1e-14).matrix
    away = 0.5 / (1 + math.exp(ratio))
    torch.testing.assert_close(plan, torch.tensor([[0.5 - away, away], [away, 0.5 - away]]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("reg", [0.3, 2.0])
def test_plan_equals_a_plain_iteration_in_the_kernel_domain(reg: float) -> None:
    cost, a, b = costs(12, 9), weights(12, 1), weights(9, 2)
    plan = sinkhorn(cost, reg, source_weights=a, data_weights=b, tolerance=1e-12).matrix
    kernel, left, right = np.exp(-cost.numpy() / reg), np.ones(12), np.ones(9)
    for _ in range(5000):
        left = a.numpy() / kernel.dot(right)
        right = b.numpy() / kernel.T.dot(left)
    np.testing.assert_allclose(plan.numpy(), left[:, None] * kernel * right, rtol=1e-9)


@pytest.mark.parametrize("relative", [1.0, 0.05, 0.01])
@pytest.mark.parametrize("dimension", [1, 64])
def test_both_marginals_hold_to_the_tolerance(relative: float, dimension: int) -> None:
    cost = costs(64, 48, dimension)
    a, b = weights(64, 3), weights(48, 4)
    plan = sinkhorn(cost, relative * float(cost.mean()), source_weights=a, data_weights=b)
    assert plan.error <= 1e-6
    assert float((plan.matrix.sum(1) - a).abs().sum()) <= 1e-6
    assert float((plan.matrix.sum(0) - b).abs().sum()) <= 1e-12
    assert bool((plan.matrix >= 0).all())


def test_much_entropy_gives_the_product_of_the_marginals() -> None:
    cost, a, b = costs(10, 7), weights(10, 5), weights(7, 6)
    gaps = []
    for reg in (1e2, 1e4, 1e6):
        plan = sinkhorn(cost, reg, source_weights=a, data_weights=b, tolerance=1e-12).matrix
        gaps.append(float((plan - a[:, None] * b).abs().sum()))
    assert gaps[2] < 1e-5
    assert gaps[1] == pytest.approx(gaps[0] / 100, rel=0.1)


def test_little_entropy_gives_the_assignment() -> None:
    cost = costs(8, 8, seed=2)
    rows, columns = linear_sum_assignment(cost.numpy())
    best = torch.zeros(8, 8)
    best[rows, columns] = 1 / 8
    plan = sinkhorn(cost, 2e-4 * float(cost.mean())).matrix
    assert float((plan - best).abs().sum()) < 1e-3


def test_transport_cost_grows_with_entropy() -> None:
    cost = costs(32, 32)
    spent = [float((sinkhorn(cost, reg).matrix * cost).sum()) for reg in (0.05, 0.2, 1.0, 5.0, 50.0)]
    assert spent == sorted(spent)
    assert spent[0] >= cost.numpy()[linear_sum_assignment(cost.numpy())].mean() - 1e-9
    assert spent[-1] <= float(cost.mean())


def test_no_underflow_where_the_kernel_is_zero_everywhere() -> None:
    """exp(-C / reg) is exactly 0 for every pair of these points in 64 dimensions; potentials do not care."""
    cost = costs(32, 32, 64)
    assert float(torch.exp(-cost / 0.05).max()) == 0.0
    plan = sinkhorn(cost, 0.05, tolerance=1e-4)
    assert float(plan.matrix.sum()) == pytest.approx(1, abs=1e-9)
    assert float((plan.matrix.sum(1) - 1 / 32).abs().sum()) <= 1e-4
    product_cost = float(cost.mean())
    assert float((plan.matrix * cost).sum()) < 0.95 * product_cost


def test_an_unconverged_plan_is_an_error_with_the_error_in_it() -> None:
    cost = costs(64, 64)
    with pytest.raises(ConvergenceError, match=r"marginal error is .* tolerance 1e-06") as caught:
        sinkhorn(cost, 1e-3 * float(cost.mean()), max_iterations=5)
    found = re.search(r"error is (\S+) after", str(caught.value))
    assert found is not None
    assert float(found.group(1)) > 1e-6


def test_forbidden_pairs_split_the_problem() -> None:
    cost = costs(6, 6)
    blocked = cost.clone()
    blocked[:2, 2:] = math.inf
    blocked[2:, :2] = math.inf
    plan = sinkhorn(blocked, 0.5, tolerance=1e-12).matrix
    torch.testing.assert_close(plan[:2, :2], sinkhorn(cost[:2, :2], 0.5, tolerance=1e-12).matrix / 3)
    torch.testing.assert_close(plan[2:, 2:], sinkhorn(cost[2:, 2:], 0.5, tolerance=1e-12).matrix * 2 / 3)
    assert float(plan[:2, 2:].abs().max()) == 0.0


def objective(plan: np.ndarray, cost: np.ndarray, reg: float, tau0: float, tau1: float) -> float:
    n, m = plan.shape

    def divergence(p: np.ndarray, q: float) -> float:
        return float((p * np.log(p / q) - p + q).sum())

    rows = 0.0 if math.isinf(tau0) else tau0 * divergence(plan.sum(1), 1 / n)
    columns = 0.0 if math.isinf(tau1) else tau1 * divergence(plan.sum(0), 1 / m)
    return float((plan * cost).sum()) + reg * divergence(plan, 1 / (n * m)) + rows + columns


@pytest.mark.parametrize(("tau0", "tau1"), [(0.7, 2.0), (2.0, 0.3), (math.inf, 0.5)])
def test_relaxed_plan_minimises_its_objective(tau0: float, tau1: float) -> None:
    cost, reg = costs(3, 4) / 4, 0.6
    fixed_rows = math.isinf(tau0)

    def plan_of(free: np.ndarray) -> np.ndarray:
        exponential: np.ndarray = np.exp(free.reshape(3, 4))
        return exponential / exponential.sum(1, keepdims=True) / 3 if fixed_rows else exponential

    found = minimize(
        lambda free: objective(plan_of(free), cost.numpy(), reg, tau0, tau1),
        np.full(12, -2.5),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    plan = sinkhorn(cost, reg, source_penalty=tau0, data_penalty=tau1, tolerance=1e-12).matrix.numpy()
    np.testing.assert_allclose(plan, plan_of(found.x), rtol=1e-4, atol=1e-7)
    assert objective(plan, cost.numpy(), reg, tau0, tau1) <= found.fun + 1e-12


def test_heavy_penalties_restore_the_balanced_plan() -> None:
    cost = costs(16, 16)
    balanced = sinkhorn(cost, 0.5, tolerance=1e-10).matrix
    gaps = [
        float(
            (sinkhorn(cost, 0.5, source_penalty=tau, data_penalty=tau, tolerance=1e-10).matrix - balanced).abs().sum()
        )
        for tau in (1e3, 1e4, 1e5)
    ]
    assert gaps[2] < 2e-4
    assert all(second == pytest.approx(first / 10, rel=0.15) for first, second in itertools.pairwise(gaps))


@pytest.mark.parametrize(
    ("reg", "tau0", "tau1", "limit"),
    [
        (0.2, 0.3, math.inf, 60),  # Sinkhorn's iteration alone
        (0.2, math.inf, 0.3, 60),
        (0.005, 0.5, 0.5, 450),  # with Newton's steps to finish
        (0.005, 2.0, math.inf, 450),
        (0.005, math.inf, 2.0, 450),
        (0.001, math.inf, math.inf, 450),
    ],
)
def test_few_iterations_suffice(reg: float, tau0: float, tau1: float, limit: int) -> None:
    """A wrong derivative would still end at the right plan, only much later."""
    cost = costs(24, 24)
    cost = cost / cost.mean()
    assert sinkhorn(cost, reg, source_penalty=tau0, data_penalty=tau1, tolerance=1e-10).iterations <= limit


def test_bad_input_is_named() -> None:
    cost = costs(3, 3)
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"regularisation.*{value}.*positive and finite"):
            sinkhorn(cost, value)
    with pytest.raises(ConfigError, match=r"tolerance.*0"):
        sinkhorn(cost, 1.0, tolerance=0.0)
    with pytest.raises(ConfigError, match=r"data_penalty.*-2"):
        sinkhorn(cost, 1.0, data_penalty=-2.0)
    with pytest.raises(ConfigError, match=r"source_weights.*\(2,\).*\(3,\)"):
        sinkhorn(cost, 1.0, source_weights=torch.tensor([0.5, 0.5]))
    with pytest.raises(ConfigError, match=r"data_weights.*least value 0;.*above 0"):
        sinkhorn(cost, 1.0, data_weights=torch.tensor([0.5, 0.5, 0.0]))
    cost[1] = math.inf
    with pytest.raises(ConfigError, match="infinite throughout"):
        sinkhorn(cost, 1.0)
