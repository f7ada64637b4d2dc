"""Solvers against plain-number Runge-Kutta steps, closed-form flow maps and their textbook orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Linear, Trigonometric
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import SOLVERS, solver

Rate = Callable[[float, float], float]


def euler_step(f: Rate, x: float, t: float, h: float) -> float:
    return x + h * f(x, t)


def midpoint_step(f: Rate, x: float, t: float, h: float) -> float:
    return x + h * f(x + h / 2 * f(x, t), t + h / 2)


def heun_step(f: Rate, x: float, t: float, h: float) -> float:
    k = f(x, t)
    return x + h / 2 * (k + f(x + h * k, t + h))


def rk4_step(f: Rate, x: float, t: float, h: float) -> float:
    k1 = f(x, t)
    k2 = f(x + h / 2 * k1, t + h / 2)
    k3 = f(x + h / 2 * k2, t + h / 2)
    k4 = f(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


STEPS = {"euler": euler_step, "midpoint": midpoint_step, "rf_solver": midpoint_step, "heun": heun_step, "rk4": rk4_step}
EVALUATIONS = {"euler": 1, "midpoint": 2, "rf_solver": 2, "heun": 2, "rk4": 4}


def rf_solver_step(f: Rate, x: float, t: float, h: float) -> float:
    """The Taylor form as published: x + h v + (h^2 / 2) (v_mid - v) / (h / 2)."""
    v = f(x, t)
    v_mid = f(x + h / 2 * v, t + h / 2)
    return x + h * v + h * h / 2 * (v_mid - v) / (h / 2)


def walk(step: Callable[[Rate, float, float, float], float], x: float, grid: list[float]) -> float:
    for t, t_next in itertools.pairwise(grid):
        x = step(lambda y, s: math.sin(3 * y) + s * s * y - 0.4, x, t, t_next - t)
    return x


def nonlinear(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + (t * t)[:, None] * x - 0.4


@pytest.mark.parametrize("method", sorted(STEPS))
@pytest.mark.parametrize("grid", [[0.0, 0.3, 0.45, 1.0], [0.9, 0.5, 0.1, 0.0]])
def test_steps_equal_plain_numbers_on_uneven_grids_both_ways(method: str, grid: list[float]) -> None:
    x = torch.tensor([[0.7], [-1.2]])
    end = integrate(Flow(nonlinear), x, times=torch.tensor(grid), method=method).x
    for row in range(2):
        assert float(end[row, 0]) == pytest.approx(walk(STEPS[method], float(x[row, 0]), grid), abs=1e-13)


def test_rf_solver_is_the_midpoint_rule() -> None:
    grid = [0.0, 0.3, 0.45, 1.0]
    end = integrate(Flow(nonlinear), torch.tensor([[0.7]]), times=torch.tensor(grid), method="rf_solver").x
    assert float(end) == pytest.approx(walk(rf_solver_step, 0.7, grid), abs=1e-12)
    assert SOLVERS["rf_solver"] is SOLVERS["midpoint"]


@pytest.mark.parametrize("method", sorted(STEPS))
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_evaluations_are_counted_exactly(method: str, steps: int) -> None:
    calls = 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -x

    solution = integrate(Flow(model), torch.ones(2, 1), steps=steps, method=method)
    assert solution.nfe == calls == EVALUATIONS[method] * steps


def test_the_catalogue_suggests_the_nearest_name() -> None:
    assert set(STEPS) < set(SOLVERS)
    with pytest.raises(ConfigError, match=r"'eulr'.*midpoint.*did you mean 'euler'"):
        solver("eulr")
    with pytest.raises(ConfigError, match=r"'zzz' is unknown; allowed: ab2, ddim, dopri5, .*, unipc$"):
        solver("zzz")


def gaussian(path: Linear | Trigonometric) -> GaussianFlow:
    rotation = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    return GaussianFlow(torch.tensor([1.0, -2.0]), rotation @ torch.diag(torch.tensor([0.25, 4.0])) @ rotation.mT, path)


def mixture() -> MixtureFlow:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    return MixtureFlow([0.5, 0.3, 0.2], means, 0.25 * torch.eye(2).expand(3, 2, 2))


def sources(count: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0))


def observed_order(flow: Flow, x0: Tensor, truth: Tensor, method: str, steps: int) -> float:
    errors = [
        float((integrate(flow, x0, steps=n, method=method).x - truth).square().sum(1).mean().sqrt())
        for n in (steps, 2 * steps)
    ]
    return math.log2(errors[0] / errors[1])


ORDERS = {"euler": (0.85, 1.15), "midpoint": (1.85, 2.20), "heun": (1.85, 2.20), "rk4": (3.7, 4.3)}


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_order_on_a_gaussian_along_the_trigonometric_path(method: str) -> None:
    target, x0 = gaussian(Trigonometric()), sources(64)
    truth = target.flow_map(x0, torch.zeros(64), torch.ones(64))
    low, high = ORDERS[method]
    assert low <= observed_order(target.flow(), x0, truth, method, 160) <= high


@pytest.fixture(scope="module")
def mixture_ends() -> Tensor:
    """Ends of 32 mixture trajectories to about 1e-10, by a solver whose steps are checked above."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    end: Tensor = integrate(mixture().flow(), sources(32), steps=640, method="rk4").x
    torch.set_default_dtype(previous)
    return end


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_order_on_a_mixture_along_the_linear_path(method: str, mixture_ends: Tensor) -> None:
    low, high = ORDERS[method]
    steps = 80 if method == "rk4" else 160  # the reference must stay far more accurate than what it judges
    assert low <= observed_order(mixture().flow(), sources(32), mixture_ends, method, steps) <= high


def test_midpoint_gains_an_order_on_a_gaussian_along_the_linear_path() -> None:
    """Superconvergence that is known and right: whoever measures orders on this problem is misled."""
    target, x0 = gaussian(Linear()), sources(64)
    truth = target.flow_map(x0, torch.zeros(64), torch.ones(64))
    assert 2.8 <= observed_order(target.flow(), x0, truth, "midpoint", 80) <= 3.2


def test_rk4_reaches_the_closed_form_map_both_ways() -> None:
    for path in (Linear(), Trigonometric()):
        target, x0 = gaussian(path), sources(64)
        end = integrate(target.flow(), x0, steps=160, method="rk4").x
        torch.testing.assert_close(end, target.flow_map(x0, torch.zeros(64), torch.ones(64)), atol=1e-8, rtol=0)
        back = integrate(target.flow(), end, times=torch.linspace(1, 0, 161), method="rk4").x
        torch.testing.assert_close(back, x0, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", sorted(STEPS))
@pytest.mark.parametrize("steps", [1, 7])
def test_every_solver_is_exact_on_the_reflowed_gaussian(method: str, steps: int) -> None:
    """After one reflow x1 = m + c x0, so that v(x, t) = m + (c - 1)(x - t m) / (1 + t (c - 1)) runs straight."""
    m, c = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])

    def straight(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return m + (c - 1) * (x - t * m) / (1 + t * (c - 1))

    x0 = sources(16)
    end = integrate(Flow(straight), x0, steps=steps, method=method).x
    torch.testing.assert_close(end, m + c * x0, atol=1e-12, rtol=0)
