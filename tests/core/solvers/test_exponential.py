"""DDIM, DPM-Solver++ and UniPC: what they solve exactly, their weights against quadrature, their orders and costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from rectiflow.sampling import integrate
from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.field import VelocityField
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.sphere import Sphere

METHODS = ["ddim", "dpm++2m", "dpm++3m", "unipc"]
HIGHER = ["dpm++2m", "dpm++3m", "unipc"]


def nonlinear(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + (t * t)[:, None] * x - 0.4


@pytest.mark.parametrize("grid", [[0.0, 0.3, 0.45, 1.0], [1.0, 0.5, 0.1, 0.0]])
def test_ddim_is_eulers_method_on_the_linear_path(grid: list[float]) -> None:
    x, times = torch.tensor([[0.7], [-1.2]]), torch.tensor(grid)
    ddim = integrate(Flow(nonlinear), x, times=times, method="ddim").x
    torch.testing.assert_close(ddim, integrate(Flow(nonlinear), x, times=times).x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VariancePreserving()])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_fixed_data_estimate_is_carried_exactly_on_any_path(method: str, path: Interpolant, steps: int) -> None:
    """The flow to one point y: x_t = a(t) y + s(t) x0 for all t, in one step as in five."""
    flow = Flow(lambda x, t: torch.full_like(x, 3.0), path, "data")
    x0 = torch.tensor([[0.5], [-2.0]])
    low, high = path.coefficients(torch.tensor(0.1)), path.coefficients(torch.tensor(0.8))
    start = low.a * 3.0 + low.s * x0
    end = integrate(flow, start, times=torch.linspace(0.1, 0.8, steps + 1), method=method).x
    torch.testing.assert_close(end, high.a * 3.0 + high.s * x0, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_a_fixed_noise_estimate_is_carried_exactly_towards_the_source(method: str, path: Interpolant) -> None:
    flow = Flow(lambda x, t: torch.full_like(x, -1.5), path, "noise")
    x1 = torch.tensor([[0.5], [-2.0]])
    end = integrate(flow, x1, times=torch.tensor([1.0, 0.6, 0.3, 0.2]), method=method).x
    c = path.coefficients(torch.tensor(0.2))
    torch.testing.assert_close(end, c.a * x1 - c.s * 1.5, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_last_step_lands_on_the_data_prediction(method: str) -> None:
    flow = Flow(lambda x, t: torch.sin(x) + t[:, None], Trigonometric(), "data")
    kept = integrate(flow, torch.tensor([[0.3]]), steps=6, method=method, trajectory=True)
    assert kept.trajectory is not None
    prediction = float(torch.sin(kept.trajectory[-2]) + kept.times[-2])
    tolerance = 0.1 if method == "unipc" else 1e-12  # UniPC evaluates before its correction of that state
    assert float(kept.x) == pytest.approx(prediction, abs=tolerance)


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VariancePreserving()])
def test_weights_of_a_polynomial_prediction_against_quadrature(path: Interpolant) -> None:
    """dx/du in y = x / s is e^u X(u), u = log(a / s): the last step of a grid, for X = 1, d, d^2 about its start."""
    ladder = rungs(path, [0.2, 0.35, 0.4, 0.7])
    nodes = [ladder.clock[2], ladder.clock[1], ladder.clock[0]]
    begin, end = ladder.clock[2], ladder.clock[3]
    s = ladder.fade[3]
    for count in (1, 2, 3):
        keep, *weights = ladder.polynomial(2, 2, count)
        assert len(weights) == count
        assert keep == pytest.approx(s / ladder.fade[2], rel=1e-14)
        for power in range(count):
            exact = s * quad(lambda u, p=power: math.exp(u) * (u - begin) ** p, begin, end, epsabs=1e-14)[0]
            found = sum(w * (node - begin) ** power for w, node in zip(weights, nodes, strict=False))
            assert found == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("method", ["dpm++3m", "unipc"])
def test_a_prediction_linear_in_half_log_snr_is_integrated_exactly(method: str) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return (2.0 + 0.5 * torch.log(t / (1 - t)))[:, None] * torch.ones_like(x)

    grid = [0.1, 0.2, 0.45, 0.6, 0.9]
    end = integrate(Flow(model, predicts="data"), torch.zeros(1, 1), times=torch.tensor(grid), method=method).x
    integral = quad(lambda u: math.exp(u) * (2 + 0.5 * u), math.log(0.1 / 0.9), math.log(0.9 / 0.1), epsabs=1e-14)[0]
    expected = 0.1 * integral
    assert float(end) == pytest.approx(expected, abs=1e-12)


def test_dpmpp_2m_by_hand() -> None:
    """Three steps on the linear path from t = 1/5: X is given, so the published update can be written out."""
    grid = [0.2, 0.4, 0.7, 0.9]
    known = {0.2: 1.0, 0.4: -2.0, 0.7: 0.5}

    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, known[round(float(t[0]), 6)])

    clock = [math.log(t / (1 - t)) for t in grid]
    h = [b - a for a, b in itertools.pairwise(clock)]
    x = 0.3
    for i, (t, t_next) in enumerate(itertools.pairwise(grid)):
        estimate = known[t]
        if i > 0:
            r = h[i - 1] / h[i]
            estimate = (1 + 1 / (2 * r)) * known[t] - known[grid[i - 1]] / (2 * r)
        x = (1 - t_next) / (1 - t) * x - t_next * math.expm1(-h[i]) * estimate
    flow = Flow(model, predicts="data")
    end = integrate(flow, torch.tensor([[0.3]]), times=torch.tensor(grid), method="dpm++2m").x
    assert float(end) == pytest.approx(x, abs=1e-13)


ORDERS = {"ddim": (0.85, 1.15), "dpm++2m": (1.8, 2.4), "dpm++3m": (2.7, 3.2), "unipc": (2.7, 3.2)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ends", [(0.05, 0.95), (0.95, 0.05)])
@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_orders_away_from_the_ends(
    method: str, ends: tuple[float, float], path: Interpolant, gaussian: Callable[..., Any]
) -> None:
    """Half the weight on the second difference, as in widespread code, would give dpm++3m an order of about 2 here."""
    low, high = ORDERS[method]
    assert low <= gaussian(path, *ends).order(method, 160) <= high


@pytest.mark.parametrize("method", METHODS)
def test_orders_on_the_whole_interval(method: str, gaussian: Callable[..., Any], mixture: Any) -> None:
    """The infinite half-logSNR at both ends holds everything above order 1 near 2."""
    low, high = (0.85, 1.15) if method == "ddim" else (1.6, 2.4)
    assert low <= gaussian().order(method, 160) <= high
    assert low <= gaussian(low=1.0, high=0.0).order(method, 160) <= high
    assert low <= mixture.order(method, 160) <= high


@pytest.mark.parametrize("method", HIGHER)
def test_higher_orders_pay(method: str, gaussian: Callable[..., Any]) -> None:
    problem = gaussian()
    assert problem.error(method, 80) < problem.error("ddim", 80) / 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_one_evaluation_a_step(method: str, steps: int) -> None:
    calls: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t[0]))
        return -x

    solution = integrate(Flow(model), torch.ones(2, 1), steps=steps, method=method)
    assert solution.nfe == len(calls) == steps
    assert calls == pytest.approx([i / steps for i in range(steps)])


@pytest.mark.parametrize("method", METHODS)
def test_the_observer_gets_velocities(method: str) -> None:
    """On a fixed data estimate y the velocity on the linear path is (y - x) / (1 - t)."""
    seen: list[float] = []
    integrate(
        Flow(lambda x, t: torch.full_like(x, 3.0), predicts="data"),
        torch.zeros(1, 1),
        steps=4,
        method=method,
        observe=lambda i, t, x, v: seen.append(float(v - (3.0 - x) / (1 - t))),
    )
    assert seen == pytest.approx([0.0] * 4, abs=1e-12)


LABELS = {"label": torch.tensor([1, 2, 3])}


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score"])
def test_the_field_gives_all_kinds_for_one_evaluation_guided_alike(predicts: Any) -> None:
    calls = 0

    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.sin(x * label[:, None].to(x.dtype)) + t[:, None]

    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    flow = Flow(model, Trigonometric(), predicts, null={"label": 9})
    t = torch.full((3,), 0.3)
    free = {"label": torch.full((3,), 9)}
    field = VelocityField(flow, x, LABELS, Guidance(2.5))
    for kind, ours in (("data", field.data), ("score", field.score), ("velocity", field)):
        with_label, without = getattr(flow, kind)(x, t, **LABELS), getattr(flow, kind)(x, t, **free)
        calls, field.evaluations = 0, 0
        torch.testing.assert_close(ours(x, 0.3), without + 2.5 * (with_label - without))
        assert (calls, field.evaluations) == (1, 2)
    calls = 0
    velocity, score = field.velocity_and_score(x, 0.3)
    assert calls == 1
    torch.testing.assert_close(velocity, field(x, 0.3))
    torch.testing.assert_close(score, field.score(x, 0.3))


@pytest.mark.parametrize("method", METHODS)
def test_products_of_flat_spaces_are_solved_part_by_part(method: str) -> None:
    flow = Flow(
        lambda x, t: {name: torch.sin(part) for name, part in x.items()},
        space=Product(a=Euclidean(), b=Euclidean()),
        predicts="data",
    )
    x = {"a": torch.ones(2, 3), "b": torch.full((2, 1), -0.5)}
    end = integrate(flow, x, steps=5, method=method).x
    single = Flow(lambda x, t: torch.sin(x), predicts="data")
    for name, part in x.items():
        torch.testing.assert_close(end[name], integrate(single, part, steps=5, method=method).x)


def test_mean_reverting_diffusion_is_ddim_about_its_mean() -> None:
    """MRS, order 1: x_t = (s_t/s_s) x_s + mu (1 - s_t/s_s - k) + k x_hat, k = A_t - A_s s_t/s_s, with s = lam sqrt(1 - A^2)."""
    mu, lam = torch.tensor([[2.0, -1.0]]), 0.4
    path = VariancePreserving()
    times = torch.linspace(0.0, 0.9, 8)

    def clean(x: Tensor) -> Tensor:
        return torch.tanh(x)

    x = mu + lam * torch.tensor([[0.3, -0.7]])
    shifted = Flow(lambda y, t: (clean(mu + lam * y) - mu) / lam, path, "data")
    ours = mu + lam * integrate(shifted, (x - mu) / lam, times=times, method="ddim").x
    c = path.coefficients(times)
    decay, spread = c.a, lam * (1 - c.a.square()).sqrt()
    for i in range(7):
        ratio = spread[i + 1] / spread[i]
        k = decay[i + 1] - decay[i] * ratio
        x = ratio * x + mu * (1 - ratio - k) + k * clean(x)
    torch.testing.assert_close(ours, x, atol=1e-12, rtol=0)


def test_an_unknown_space_is_named() -> None:
    x = torch.tensor([[0.0, 0.0, 1.0]])
    for method in [*HIGHER, "reversible_heun"]:
        with pytest.raises(ConfigError, match=rf"'{method.replace('+', '.')}' adds states, which .*Sphere.*ab2"):
            integrate(Flow(lambda x, t: x, space=Sphere()), x, method=method, steps=2)
