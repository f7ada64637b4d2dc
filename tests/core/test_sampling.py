"""integrate, sample and invert: what they return, what they refuse, and what they leave alone."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.interpolants import Linear, Trigonometric
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate, invert, sample


def decay(x: Tensor, t: Tensor) -> Tensor:
    return -x


def mixture() -> MixtureFlow:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    return MixtureFlow([0.5, 0.3, 0.2], means, 0.2 * torch.eye(2).expand(3, 2, 2))


def test_the_trajectory_holds_both_ends_and_is_off_by_default() -> None:
    x0 = torch.ones(2, 3)
    plain = integrate(Flow(decay), x0, steps=4)
    assert plain.trajectory is None
    kept = integrate(Flow(decay), x0, steps=4, trajectory=True)
    assert kept.trajectory is not None
    assert len(kept.trajectory) == len(kept.times) == 5
    assert torch.equal(kept.trajectory[0], x0)
    assert torch.equal(kept.trajectory[-1], plain.x)
    for i, state in enumerate(kept.trajectory):
        torch.testing.assert_close(state, torch.full((2, 3), 0.75**i))
    assert kept.times.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert torch.equal(x0, torch.ones(2, 3))


@pytest.mark.parametrize("trajectory", [False, True])
def test_the_observer_sees_every_step_before_it_is_taken(trajectory: bool) -> None:
    seen: list[tuple[int, float, float, float]] = []
    integrate(
        Flow(decay),
        torch.ones(1, 1),
        steps=2,
        method="midpoint",
        trajectory=trajectory,
        observe=lambda step, t, x, v: seen.append((step, t, float(x), float(v))),
    )
    factor = 1 - 0.5 + 0.125
    assert seen == [(0, 0.0, 1.0, -1.0), (1, 0.5, pytest.approx(factor), pytest.approx(-factor))]


def test_the_model_gets_one_time_a_sample_at_the_solver_stages() -> None:
    times: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,)
        assert t.dtype is x.dtype
        assert bool((t == t[0]).all())
        times.append(float(t[0]))
        return torch.zeros_like(x)

    integrate(Flow(model), torch.zeros(3, 2), steps=2, method="rk4")
    assert times == [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0]


def test_a_shift_moves_the_grid_towards_noise() -> None:
    solution = integrate(Flow(decay), torch.ones(1, 1), steps=2, shift=3.0)
    torch.testing.assert_close(solution.times, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(solution.x, torch.tensor([[0.75 * 0.25]]))


def test_samples_follow_the_target_law() -> None:
    """n = 40 000, RK4: means and variances within four standard errors."""
    target = GaussianFlow(torch.tensor([1.0, -2.0]), torch.diag(torch.tensor([0.25, 4.0])))
    n = 40_000
    x = sample(target.flow(), (n, 2), steps=20, method="rk4", generator=torch.Generator().manual_seed(0))
    variance = torch.tensor([0.25, 4.0])
    assert bool(((x.mean(0) - torch.tensor([1.0, -2.0])).abs() < 4 * (variance / n).sqrt()).all())
    assert bool(((x.var(0) - variance).abs() < 4 * variance * math.sqrt(2 / n) + 1e-3).all())


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score"])
def test_all_predictions_of_one_law_end_alike(predicts: Prediction) -> None:
    target = GaussianFlow(torch.tensor([1.0, -2.0]), torch.diag(torch.tensor([0.25, 4.0])), Trigonometric())
    model = {"velocity": target.velocity, "data": target.data, "noise": target.noise, "score": target.score}[predicts]
    x0 = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0.01, 0.99, 81)
    end = integrate(Flow(model, Trigonometric(), predicts), x0, times=times, method="rk4").x
    expected = target.flow_map(x0, torch.full((20,), 0.01), torch.full((20,), 0.99))
    torch.testing.assert_close(end, expected, atol=1e-6, rtol=0)


def test_one_euler_step_of_a_data_prediction_ends_on_it() -> None:
    flow = Flow(lambda x, t: torch.full_like(x, 3.0), predicts="data")
    for steps in (1, 2, 10):
        end = integrate(flow, torch.zeros(1, 1), steps=steps).x
        assert float(end) == pytest.approx(3.0, abs=1e-12)


def test_round_trips_on_a_mixture_have_their_orders() -> None:
    """x1 -> x0 -> x1: Euler order one; midpoint order three, because the second-order terms of both ways cancel."""
    flow = mixture().flow()
    x1 = mixture().sample(256, torch.Generator().manual_seed(0))

    def error(method: str, steps: int) -> float:
        x0 = invert(flow, x1, steps=steps, method=method)
        back = integrate(flow, x0, steps=steps, method=method).x
        return float((back - x1).square().sum(1).mean().sqrt())

    euler = [error("euler", n) for n in (25, 50, 100, 200)]
    midpoint = [error("midpoint", n) for n in (25, 50, 100, 200)]
    assert math.log2(euler[2] / euler[3]) == pytest.approx(1, abs=0.3)
    assert math.log2(midpoint[2] / midpoint[3]) == pytest.approx(3, abs=0.3)
    for measured, reference in zip(euler, (1.4e-1, 7.3e-2, 3.7e-2, 1.9e-2), strict=True):
        assert reference / 2 < measured < reference * 2
    for measured, reference in zip(midpoint, (1.6e-3, 2.0e-4, 2.5e-5, 3.1e-6), strict=True):
        assert reference / 2 < measured < reference * 2


def test_inversion_reaches_the_source_of_a_gaussian() -> None:
    target = GaussianFlow(torch.tensor([1.0, -2.0]), torch.diag(torch.tensor([0.25, 4.0])))
    x0 = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    x1 = target.flow_map(x0, torch.zeros(10), torch.ones(10))
    torch.testing.assert_close(invert(target.flow(), x1, steps=100, method="rk4"), x0, atol=1e-6, rtol=0)
    grid = torch.linspace(1, 0, 101)
    torch.testing.assert_close(invert(target.flow(), x1, times=grid, method="rk4"), x0, atol=1e-6, rtol=0)


def test_inversion_passes_conditions_and_shift() -> None:
    def model(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return rate[:, None] * torch.ones_like(x)

    rate = {"rate": torch.tensor([1.0, 2.0])}
    assert invert(Flow(model), torch.zeros(2, 1), steps=3, cond=rate).flatten().tolist() == pytest.approx([-1.0, -2.0])
    seen: list[float] = []

    def watch(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return x

    invert(Flow(watch), torch.ones(1, 1), steps=2, shift=3.0, method="euler")
    assert seen == pytest.approx([1.0, 0.25])


def test_sampling_a_self_conditioned_flow_passes_on_the_last_data_estimate() -> None:
    previous: list[Tensor] = []

    def model(x: Tensor, t: Tensor, self_condition: Tensor) -> Tensor:
        previous.append(self_condition)
        return 0.5 * x - self_condition

    flow = Flow(model, self_conditioning=True)
    end = integrate(flow, torch.full((2, 1), 2.0), steps=2).x
    # step 1: v = 1, data = 2 + 1 = 3, x = 2.5; step 2: v = 1.25 - 3 = -1.75, x = 1.625
    assert [float(p[0, 0]) for p in previous] == [0.0, 3.0]
    assert end.flatten().tolist() == [1.625, 1.625]


def test_gradients_flow_only_when_they_are_asked_for() -> None:
    """dx/dt = theta x: the derivative of the end with respect to theta is x0 e^theta."""
    theta = torch.tensor(0.7, requires_grad=True)
    flow = Flow(lambda x, t: theta * x)
    x0 = torch.tensor([[1.5]])
    assert not integrate(flow, x0, steps=5).x.requires_grad
    end = integrate(flow, x0, steps=50, method="rk4", differentiable=True).x
    (slope,) = torch.autograd.grad(end.sum(), theta)
    assert float(slope) == pytest.approx(1.5 * math.exp(0.7), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("predicts", ["velocity", "data", "noise"])
def test_the_state_keeps_its_dtype_and_half_precision_keeps_its_times(dtype: torch.dtype, predicts: Prediction) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype is dtype
        seen.append(t)
        return 0.1 * x

    times = torch.linspace(0, 1, 251, dtype=torch.float64)
    end = integrate(Flow(model, predicts=predicts), torch.ones(2, 2, dtype=dtype), times=times).x
    assert end.dtype is dtype
    assert {t.dtype for t in seen} == {torch.float32}
    assert len({float(t[0]) for t in seen}) == 250


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("bad", [0.0, 0.35, 0.5, 0.95])
def test_a_nan_names_the_step_that_made_it(method: str, bad: float) -> None:
    """Ten steps; the model breaks in the tenth that begins at or before `bad`, whichever stage meets it."""
    stage = {"euler": 0.0, "midpoint": 0.05, "heun": 0.0, "rk4": 0.05}[method]
    wrong = int(bad * 10) / 10 + stage

    def model(x: Tensor, t: Tensor) -> Tensor:
        near = (t - wrong).abs()[:, None] < 1e-9
        return torch.where(near, torch.nan, x)

    early = method == "heun" and wrong > 0  # the end stage of the step before meets that time first
    expected = int(bad * 10) + (0 if early else 1)
    with pytest.raises(NonFiniteError, match=rf"at step {expected} of 10 \({method}\)"):
        integrate(Flow(model), torch.ones(2, 1), steps=10, method=method)
    unchecked = integrate(Flow(model), torch.ones(2, 1), steps=10, method=method, check_finite=False).x
    assert bool(torch.isnan(unchecked).all())


def test_overflow_and_bad_starts_are_named() -> None:
    with pytest.raises(NonFiniteError, match="at step 1 of 3"):
        integrate(Flow(decay), torch.tensor([[math.inf]]), steps=3)
    with pytest.raises(NonFiniteError, match="at step 3 of 3"):
        integrate(Flow(lambda x, t: torch.where(t[:, None] > 0.5, math.inf, x)), torch.ones(1, 1), steps=3)


def test_refusals_name_what_was_given() -> None:
    flow, x, grid = Flow(decay), torch.ones(1, 1), torch.tensor([0.0, 1.0])
    with pytest.raises(ConfigError, match="both of steps and times"):
        integrate(flow, x, steps=2, times=grid)
    with pytest.raises(ConfigError, match="neither of steps and times"):
        integrate(flow, x)
    with pytest.raises(ConfigError, match="steps is -1"):
        integrate(flow, x, steps=-1)
    with pytest.raises(ConfigError, match=r"2\.5"):
        integrate(flow, x, times=torch.tensor([0.0, 2.5]))
    with pytest.raises(ConfigError, match="'rk5'"):
        integrate(flow, x, steps=2, method="rk5")
    with pytest.raises(ConfigError, match="from 0 to 1; they must decrease"):
        invert(flow, x, times=grid)
    with pytest.raises(ConfigError, match="both of steps and times"):
        invert(flow, x, steps=2, times=grid.flip(0))
    with pytest.raises(ConfigError, match="neither of steps and times"):
        invert(flow, x)


def test_sample_is_integrate_from_the_source_and_depends_on_the_generator_alone() -> None:
    flow = mixture().flow()

    def draw(seed: int) -> Tensor:
        end: Tensor = sample(flow, (8, 2), steps=5, method="heun", generator=torch.Generator().manual_seed(seed))
        return end

    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    first, again, other = draw(1), draw(1), draw(2)
    x0 = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, integrate(flow, x0, steps=5, method="heun").x)
    invert(flow, first, steps=3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert random.getstate() == python_state


def test_sample_passes_everything_on() -> None:
    def source(shape: tuple[int, ...], *, cond: dict[str, Tensor], dtype: torch.dtype, **_: object) -> Tensor:
        return cond["start"].to(dtype).expand(shape)

    def model(x: Tensor, t: Tensor, start: Tensor) -> Tensor:
        return start + torch.zeros_like(x)

    flow = Flow(model, source=source, null={"start": 0.0})
    cond = {"start": torch.tensor([[1.0], [2.0]], dtype=torch.float32)}
    end = sample(flow, (2, 1), times=torch.tensor([0.0, 0.5]), cond=cond, guidance=3.0, dtype=torch.float32)
    assert end.dtype is torch.float32
    assert end.flatten().tolist() == [2.5, 5.0]
    linear = Flow(lambda x, t: torch.ones_like(x) * t[:, None], Linear(), source=lambda shape, **_: torch.zeros(shape))
    shifted = sample(linear, (1, 1), steps=2, shift=3.0)
    assert float(shifted) == pytest.approx(0.75 * 0.25)
