"""dopri5: error against tolerance, evaluations, dense output, limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import RK45
from torch import Tensor

from rectiflow.errors import ConfigError, ConvergenceError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate, invert, sample
from rectiflow.solvers.dopri5 import STAGES, _dense_rates, _dense_weights

TOLERANCES = [1e-4, 1e-6, 1e-8]


def rms(error: Tensor) -> float:
    return float(error.square().sum(1).mean().sqrt())


def test_the_end_error_follows_the_tolerance_and_evaluations_rise(gaussian: Any, mixture: Any) -> None:
    for problem in (gaussian(), gaussian(low=1.0, high=0.0), mixture):
        times = torch.tensor([problem.low, problem.high])
        costs = []
        for tolerance in TOLERANCES:
            found = integrate(problem.flow, problem.start, times=times, method="dopri5", rtol=tolerance, atol=tolerance)
            assert rms(found.x - problem.end) <= 20 * tolerance
            costs.append(found.nfe)
        assert costs[0] < costs[1] < costs[2]


def test_every_attempt_costs_six_evaluations_after_the_two_of_the_start(mixture: Any) -> None:
    calls = 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        velocity: Tensor = mixture.flow.model(x, t)
        return velocity

    found = integrate(Flow(model), mixture.start, method="dopri5")
    assert found.nfe == calls
    assert (calls - 2) % 6 == 0
    assert found.times.tolist() == [0.0, 1.0]


def test_evaluations_stay_near_those_of_scipys_pair_of_the_same_coefficients(mixture: Any) -> None:
    """The same pair, norm and tolerances with another step control."""
    x = mixture.start

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(y).reshape(x.shape)
        velocity: Tensor = mixture.flow.model(state, torch.full((len(x),), t, dtype=torch.float64))
        return velocity.reshape(-1).numpy()

    for tolerance in (1e-5, 1e-7):
        peer = RK45(rate, 0.0, x.reshape(-1).numpy(), 1.0, rtol=tolerance, atol=tolerance)
        while peer.status == "running":
            peer.step()
        ours = integrate(mixture.flow, x, method="dopri5", rtol=tolerance, atol=tolerance)
        assert ours.nfe <= 1.2 * peer.nfev


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_dense_output_integrates_cubic_rates_exactly(share: float) -> None:
    """A weight a stage at the nodes c: order 4 means int_0^share c^k for k <= 3, and the rates are those powers."""
    nodes = [0.0, 0.2, 0.3, 0.8, 8 / 9, 1.0, 1.0]
    for power in range(4):
        area = sum(w * c**power for w, c in zip(_dense_weights(share), nodes, strict=True))
        rate = sum(w * c**power for w, c in zip(_dense_rates(share), nodes, strict=True))
        assert area == pytest.approx(share ** (power + 1) / (power + 1), abs=1e-12)
        assert rate == pytest.approx(share**power, abs=1e-12)


def test_dense_output_is_of_order_four() -> None:
    """dx/dt = x with one step of size h: the error inside the step falls like h^5."""
    errors = []
    for h in (0.1, 0.05):
        stages, x = [1.0], 1.0
        for weights in STAGES:
            stages.append(x + h * sum(w * k for w, k in zip(weights, stages, strict=True)))
        inside = [x + h * sum(w * k for w, k in zip(_dense_weights(c), stages, strict=True)) for c in (0.3, 0.6)]
        errors.append(max(abs(value - math.exp(c * h)) for value, c in zip(inside, (0.3, 0.6), strict=True)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.3)


def test_a_grid_is_filled_by_dense_output_and_costs_nothing(gaussian: Any) -> None:
    problem = gaussian()
    rates: list[Tensor] = []
    times = torch.linspace(0, 1, 12)
    plain = integrate(problem.flow, problem.start, method="dopri5", rtol=1e-7, atol=1e-7)
    kept = integrate(
        problem.flow,
        problem.start,
        times=times,
        method="dopri5",
        rtol=1e-7,
        atol=1e-7,
        trajectory=True,
        observe=lambda i, t, x, v: rates.append(v),
    )
    assert kept.nfe == plain.nfe
    assert torch.equal(kept.x, plain.x)
    assert kept.trajectory is not None
    assert len(kept.trajectory) == 12
    for i, state in enumerate(kept.trajectory):
        part = gaussian(low=0.0, high=float(times[i]))
        torch.testing.assert_close(state, part.end, atol=2e-6, rtol=0)
        if i < 11:
            torch.testing.assert_close(rates[i], problem.flow.velocity(state, times[i].expand(64)), atol=1e-4, rtol=0)


def test_both_directions_agree_and_invert_and_sample_take_it(gaussian: Any) -> None:
    problem = gaussian()
    there = integrate(problem.flow, problem.start, method="dopri5", rtol=1e-9, atol=1e-9).x
    back = invert(problem.flow, there, method="dopri5", rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, problem.start, atol=1e-7, rtol=0)
    drawn = sample(
        problem.flow, (64, 2), method="dopri5", rtol=1e-9, atol=1e-9, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(drawn, there)


def test_float32_states_and_constant_fields_are_solved() -> None:
    end = integrate(Flow(lambda x, t: torch.ones_like(x)), torch.zeros(2, 2, dtype=torch.float32), method="dopri5").x
    assert end.dtype is torch.float32
    torch.testing.assert_close(end, torch.ones(2, 2, dtype=torch.float32))
    still = integrate(Flow(lambda x, t: torch.zeros_like(x)), torch.zeros(2, 2), method="dopri5")
    assert not bool(still.x.any())


def test_a_step_change_is_found() -> None:
    """Rejections: the rate jumps by a thousand inside the interval."""
    found = integrate(
        Flow(lambda x, t: torch.where(t[:, None] < 0.3, 1.0, 1000.0) * torch.ones_like(x)),
        torch.zeros(1, 1),
        method="dopri5",
        rtol=1e-6,
        atol=1e-6,
    )
    assert float(found.x) == pytest.approx(0.3 + 700, abs=1e-2)


def test_limits_are_named() -> None:
    flow, x = Flow(lambda x, t: -1e4 * (x - torch.cos(t)[:, None])), torch.ones(2, 1)
    with pytest.raises(ConvergenceError, match=r"reached t = 0\.\d+ after \d+ evaluations.*allowed: 60"):
        integrate(flow, x, method="dopri5", max_nfe=60)
    calls = 0

    def count(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -1e4 * x

    with pytest.raises(ConvergenceError):
        integrate(Flow(count), x, method="dopri5", max_nfe=60)
    assert calls <= 60
    with pytest.raises(ConvergenceError, match="below rounding"):
        integrate(Flow(lambda x, t: 1 / (0.5 - t)[:, None].abs() ** 2 * torch.sign(x)), x, method="dopri5")
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match=r"between t = 0\.[45]"):
            integrate(Flow(lambda x, t, b=bad: torch.where(t[:, None] < 0.5, -x, b)), x, method="dopri5", rtol=1e-9)
        with pytest.raises(NonFiniteError, match="at t = 0"):
            integrate(Flow(lambda x, t, b=bad: torch.full_like(x, b)), x, method="dopri5")
    with pytest.raises(ConfigError, match="rtol -1 and atol 1e-05"):
        integrate(flow, x, method="dopri5", rtol=-1.0)
    with pytest.raises(ConfigError, match="atol 0"):
        integrate(flow, x, method="dopri5", atol=0.0)
    with pytest.raises(ConfigError, match=r"'dopri5' got steps 5 .*rtol and atol"):
        integrate(flow, x, steps=5, method="dopri5")
