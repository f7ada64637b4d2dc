"""AB2, FireFlow and the pseudo-corrector: quadrature they reduce to, orders, evaluations, curved spaces."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.flow import Flow
from rectiflow.sampling import integrate

METHODS = ["ab2", "fireflow", "pseudo_corrector"]
GRIDS = [[0.0, 0.3, 0.45, 1.0], [0.9, 0.5, 0.1, 0.0]]


def ends(rate: Callable[[Tensor], Tensor], grid: list[float], method: str) -> float:
    flow = Flow(lambda x, t: rate(t)[:, None] * torch.ones_like(x))
    return float(integrate(flow, torch.zeros(1, 1), times=torch.tensor(grid), method=method).x)


@pytest.mark.parametrize("grid", GRIDS)
def test_ab2_integrates_a_linear_rate_exactly_on_uneven_grids(grid: list[float]) -> None:
    expected = (grid[-1] - 0.5 * grid[-1] ** 2) - (grid[0] - 0.5 * grid[0] ** 2)
    assert ends(lambda t: 1 - t, grid, "ab2") == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("grid", GRIDS)
def test_fireflow_is_the_midpoint_sum_and_the_pseudo_corrector_the_trapezoid_sum(grid: list[float]) -> None:
    steps = list(itertools.pairwise(grid))
    midpoint = sum((b - a) * ((a + b) / 2) ** 3 for a, b in steps)
    trapezoid = sum((b - a) * (a**3 + b**3) / 2 for a, b in steps)
    assert ends(lambda t: t**3, grid, "fireflow") == pytest.approx(midpoint, abs=1e-14)
    assert ends(lambda t: t**3, grid, "pseudo_corrector") == pytest.approx(trapezoid, abs=1e-14)


@pytest.mark.parametrize(
    ("method", "factors"),
    [
        # dx/dt = x, two steps of 1/2, by hand: the slopes are carried from step to step
        ("ab2", (1.625, 1.625 + 0.5 * (1.5 * 1.625 - 0.5))),
        ("fireflow", (1.625, 1.625 + 0.5 * (1.625 + 0.25 * 1.25))),
        ("pseudo_corrector", (1.625, 1.625 + 0.25 * (1.5 + (1.625 + 0.5 * 1.5)))),
    ],
)
def test_two_steps_by_hand(method: str, factors: tuple[float, float]) -> None:
    for times, factor in zip(([0.0, 0.5], [0.0, 0.5, 1.0]), factors, strict=True):
        end = integrate(Flow(lambda x, t: x), torch.ones(1, 1), times=torch.tensor(times), method=method).x
        assert float(end) == pytest.approx(factor, abs=1e-15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_evaluation_a_step_and_one_more(method: str, steps: int) -> None:
    calls = 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -x

    assert integrate(Flow(model), torch.ones(2, 1), steps=steps, method=method).nfe == calls == steps + 1


@pytest.mark.parametrize("method", METHODS)
def test_order_two_on_both_problems(method: str, gaussian: Any, mixture: Any) -> None:
    high = {"ab2": 2.25, "fireflow": 2.30, "pseudo_corrector": 2.25}[method]
    assert 1.85 <= gaussian().order(method, 160) <= high
    assert 1.85 <= mixture.order(method, 160) <= high
    backwards = gaussian(low=1.0, high=0.0)
    assert 1.85 <= backwards.order(method, 160) <= high


def test_fireflow_beats_the_pseudo_corrector_at_equal_cost(gaussian: Any) -> None:
    problem = gaussian()
    assert 1.5 < problem.error("pseudo_corrector", 160) / problem.error("fireflow", 160) < 3.5


@pytest.mark.parametrize("method", METHODS)
def test_straight_flows_are_exact(method: str) -> None:
    m, c = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])

    def straight(x: Tensor, t: Tensor) -> Tensor:
        return m + (c - 1) * (x - t[:, None] * m) / (1 + t[:, None] * (c - 1))

    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    for steps in (1, 7):
        end = integrate(Flow(straight), x0, steps=steps, method=method).x
        torch.testing.assert_close(end, m + c * x0, atol=1e-12, rtol=0)
