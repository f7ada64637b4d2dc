"""Ends of the grid where a prediction does not tell the velocity: times asked for, what errors there cost, and orders."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric
from rectiflow.predictions import MARGIN, Prediction
from rectiflow.sampling import Solution, integrate, invert
from rectiflow.solvers.catalogue import ADAPTIVE, SOLVERS, STOCHASTIC
from rectiflow.solvers.field import VelocityField

TARGET = GaussianFlow(torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.3, 0.4], [0.4, 0.3]]).double())
NOISY: tuple[Prediction, ...] = ("noise", "score")
ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "ab2": 2,
    "fireflow": 2,
    "pseudo_corrector": 2,
    "flow_turbo": 2,
    "reversible_heun": 2,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded())


def exact(kind: Prediction, path: Interpolant | None = None) -> Flow:
    """The Gaussian flow by a network that predicts the exact mean of that kind."""
    law = GaussianFlow(TARGET.mean, TARGET.covariance, path)
    return Flow(getattr(law, kind), law.interpolant, kind)


def solve(flow: Flow, x: Tensor, method: str, steps: int, **options: Any) -> Solution:
    if method in STOCHASTIC:
        options["generator"] = seeded(1)
    if method not in ADAPTIVE and "times" not in options:
        options["steps"] = steps
    return integrate(flow, x, method=method, **options)


def mapped(x: Tensor, start: float, end: float, path: Interpolant | None = None) -> Tensor:
    law = GaussianFlow(TARGET.mean, TARGET.covariance, path)
    return law.flow_map(x, torch.full((len(x),), start), torch.full((len(x),), end))


def order(
    kind: Prediction, method: str, start: float, end: float, steps: int, path: Interpolant | None = None
) -> float:
    x, errors = normal(32, 2), []
    for count in (steps, 2 * steps):
        grid = torch.linspace(start, end, count + 1)
        found = solve(exact(kind, path), x, method, 0, times=grid).x
        errors.append(float((found - mapped(x, start, end, path)).square().mean()))
    return math.log2(errors[0] / errors[1]) / 2


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
@pytest.mark.parametrize("method", sorted(ORDERS))
def test_orders_hold_up_to_predicted_data(method: str, path: Interpolant) -> None:
    """With 0/0 for the velocity at t = 1, methods that look there are of order 1 on the linear path."""
    assert order("data", method, 0.0, 1.0, 40, path) > ORDERS[method] - 0.3


def test_rk4_keeps_order_four_up_to_predicted_data() -> None:
    assert order("data", "rk4", 0.0, 1.0, 20) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("kind", ["noise", "score"])
@pytest.mark.parametrize("method", sorted(ORDERS))
def test_orders_hold_from_predicted_noise_and_back(method: str, kind: Prediction) -> None:
    assert order(kind, method, 0.0, 1.0, 40) > ORDERS[method] - 0.3
    assert order(kind, method, 1.0, 0.0, 40) > ORDERS[method] - 0.3


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_orders_hold_back_from_predicted_data(method: str) -> None:
    assert order("data", method, 1.0, 0.0, 40) > ORDERS[method] - 0.3


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_no_solver_asks_for_the_velocity_where_its_prediction_does_not_tell_it(method: str) -> None:
    """Four steps: the first is asked for half a step inside, the last only by the method that is reversible, there as well."""
    inner = 1 - MARGIN if method in ADAPTIVE else 7 / 8

    def asked(kind: Prediction, start: float, end: float) -> list[float]:
        seen: list[float] = []

        def model(x: Tensor, t: Tensor) -> Tensor:
            seen.append(float(t[0]))
            return 0.2 + (-0.9 if kind == "score" else 0.9) * x

        grid = torch.tensor([start, end]) if method in ADAPTIVE else torch.linspace(start, end, 5)
        noise = {"diffusion": 1.0, "last_step": "full"} if method in STOCHASTIC else {}
        solve(Flow(model, predicts=kind), normal(3, 2), method, 0, times=grid, **noise)
        return seen

    last = max(asked("data", 0.0, 1.0))
    assert last == pytest.approx(inner) if method in (*ADAPTIVE, "reversible_heun") else last < 0.95
    if method != "reinterpolate":  # it starts at the noise alone
        assert max(asked("data", 1.0, 0.0)) == pytest.approx(inner)
        for kind in NOISY:
            assert min(asked(kind, 1.0, 0.0)) >= (MARGIN if method in ADAPTIVE else 0.05)
    for kind in NOISY:
        assert min(asked(kind, 0.0, 1.0)) == pytest.approx(1 - inner)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("method", sorted(set(SOLVERS) - {"reversible_heun", "implicit_midpoint"}))
def test_a_prediction_that_stands_still_is_where_the_flow_ends(method: str, steps: int) -> None:
    """A velocity from a state that is data already, at any time before t = 1, would be 0 and leave noise behind."""
    point = torch.tensor([0.4, -3.0])
    flow = Flow(lambda x, t: point.expand_as(x), predicts="data")
    options: dict[str, Any] = {"diffusion": 0.0} if method in STOCHASTIC else {}
    end = solve(flow, normal(8, 2), method, steps, **options).x
    torch.testing.assert_close(end, point.expand_as(end), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["data", "noise"])
@pytest.mark.parametrize("method", sorted(set(SOLVERS) - STOCHASTIC - ADAPTIVE))
def test_an_error_of_the_network_is_not_magnified(method: str, kind: Prediction) -> None:
    """A constant error e moves the end of four steps by a few e; through 0/0 held 1e-3 away it is a hundred."""
    e, x = 0.01, normal(32, 2)
    flow = exact(kind)
    wrong = Flow(lambda y, t: flow.model(y, t) + e, flow.interpolant, kind)
    apart = solve(wrong, x, method, 4).x - solve(flow, x, method, 4).x
    assert float(apart.abs().max()) < 6 * e
    if method != "reinterpolate":
        grid = torch.linspace(1, 0, 5)
        apart = solve(wrong, x, method, 0, times=grid).x - solve(flow, x, method, 0, times=grid).x
        assert float(apart.abs().max()) < 12 * e


@pytest.mark.parametrize("kind", ["velocity", "data", "noise", "score"])
def test_dopri5_meets_its_tolerance_at_no_more_evaluations_whatever_is_predicted(kind: Prediction) -> None:
    x = normal(32, 2)
    for start, end in ((0.0, 1.0), (1.0, 0.0)):
        times = torch.tensor([start, end])
        found = solve(exact(kind), x, "dopri5", 0, times=times, rtol=1e-4, atol=1e-4)
        plain = solve(exact("velocity"), x, "dopri5", 0, times=times, rtol=1e-4, atol=1e-4)
        assert float((found.x - mapped(x, start, end)).abs().max()) < 1e-3
        assert found.nfe <= 1.5 * plain.nfe


def test_dopri5_shows_the_times_of_its_last_stretch() -> None:
    x, times = normal(8, 2), torch.tensor([0.0, 0.5, 0.9993, 0.9998, 1.0])
    seen: dict[int, tuple[float, Tensor, Tensor]] = {}

    def observe(step: int, t: float, state: Tensor, velocity: Tensor) -> None:
        seen[step] = (t, state, velocity)

    integrate(exact("data"), x, times=times, method="dopri5", rtol=1e-8, atol=1e-8, observe=observe)
    assert sorted(seen) == [0, 1, 2, 3]
    for t, state, velocity in seen.values():
        truth = mapped(x, 0.0, t)
        torch.testing.assert_close(state, truth, atol=2e-6, rtol=0)
        torch.testing.assert_close(velocity, TARGET.velocity(truth, torch.full((8,), t)), atol=5e-3, rtol=0)


def test_grids_inside_the_margin_are_walked() -> None:
    x = normal(8, 2)
    for method in ("heun", "ab2", "pseudo_corrector", "rk4", "dopri5"):
        times = torch.tensor([0.9992, 0.9996, 1.0])
        found = solve(exact("data"), x, method, 0, times=times).x
        torch.testing.assert_close(found, mapped(x, 0.9992, 1.0), atol=2e-5, rtol=0)


@pytest.mark.parametrize("steps", [4, 25])
def test_reversible_heun_comes_back_from_predicted_data(steps: int) -> None:
    x, grid = normal(8, 2), torch.linspace(1, 0, steps + 1)
    down = integrate(exact("data"), x, times=grid, method="reversible_heun")
    up = integrate(exact("data"), down.x, times=grid.flip(0), method="reversible_heun", auxiliary=down.auxiliary)
    torch.testing.assert_close(up.x, x, atol=1e-11, rtol=0)


@pytest.mark.parametrize("last_step", ["ode", "mean", "full"])
def test_stochastic_heun_ends_on_the_law_of_predicted_data(last_step: str) -> None:
    """n = 20 000, eps = 1/2 up to the end, 64 steps: covariances within four standard errors and an error of order h."""
    n, law = 20_000, exact("data")
    found = integrate(
        law,
        normal(n, 2),
        steps=64,
        method="stochastic_heun",
        diffusion=0.5,
        last_step=last_step,
        generator=seeded(1),
    ).x
    measured = torch.cov(found.mT)
    variances = TARGET.covariance.diagonal()
    error = (variances[:, None] * variances + TARGET.covariance.square()).div(n).sqrt()
    assert bool(((measured - TARGET.covariance).abs() < 4 * error + 1.5 / 64).all())


@pytest.mark.parametrize("kind", ["data", "noise", "score"])
def test_a_flow_tells_its_velocity_at_both_ends(kind: Prediction) -> None:
    """And so do its score from any other prediction, and a field outside of a solve."""
    x, flow = normal(16, 2), exact(kind)
    for end in (0.0, 1.0):
        t = torch.full((16,), end)
        torch.testing.assert_close(flow.velocity(x, t), TARGET.velocity(x, t), atol=4e-2, rtol=0)
        torch.testing.assert_close(VelocityField(flow, x)(x, end), flow.velocity(x, t), atol=1e-12, rtol=0)
        torch.testing.assert_close(flow.score(x, t), TARGET.score(x, t), atol=2e-1, rtol=2e-2)


def test_inversion_and_sampling_with_predicted_data_are_inverse() -> None:
    x = mapped(normal(32, 2), 0.0, 1.0)
    x0 = invert(exact("data"), x, steps=50)
    torch.testing.assert_close(x0, mapped(x, 1.0, 0.0), atol=5e-3, rtol=0)
    back = integrate(exact("data"), x0, steps=50, method="fireflow").x
    torch.testing.assert_close(back, x, atol=5e-3, rtol=0)
