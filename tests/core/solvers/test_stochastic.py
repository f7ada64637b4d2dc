"""Euler-Maruyama and stochastic Heun: laws that do not depend on the diffusion, last steps, refusals."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.errors import ConfigError, ConversionError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from rectiflow.sampling import integrate, sample
from rectiflow.solvers.diffusion import FORMS, Diffusion, amounts
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.zero_mean import ZeroMean

METHODS = ["euler_maruyama", "stochastic_heun"]
MEAN, VARIANCE = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.25, 1.0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(path: Interpolant | None = None) -> GaussianFlow:
    return GaussianFlow(MEAN, torch.diag(VARIANCE), path or Linear())


@functools.cache
def moments(
    method: str, steps: int, diffusion: float | str, count: int, backward: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean error and relative variance error of `count` ends."""
    law = target()
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if backward:
        start, grid = law.sample(count, seeded(1)), grid.flip(0)
        mean, variance = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    else:
        start, mean, variance = torch.randn(count, 2, generator=seeded(1), dtype=torch.float64), MEAN, VARIANCE
    end = integrate(law.flow(), start, times=grid, method=method, diffusion=diffusion, generator=seeded(2)).x
    return end.mean(0) - mean, end.var(0) / variance - 1


@pytest.mark.parametrize("eps", [0.5, 2.0])
def test_the_law_of_the_ends_does_not_depend_on_the_diffusion(eps: float) -> None:
    n = 100_000
    mean, variance = moments("euler_maruyama", 200, eps, n)
    assert bool((mean.abs() <= 4 * (VARIANCE / n).sqrt() + 0.01).all())
    assert float(variance.abs().max()) <= 0.025


def test_halving_the_step_halves_the_bias() -> None:
    """eps = 2 on variance 1/4: the bias of the variance, about 2 eps h, is far above four standard errors of 0.0045."""
    biases = [float(moments("euler_maruyama", steps, 2.0, 100_000)[1][0]) for steps in (50, 100)]
    assert biases[0] > 0.05
    assert biases[0] / biases[1] == pytest.approx(2, abs=0.6)


def test_heun_has_far_less_bias() -> None:
    n = 40_000
    euler = moments("euler_maruyama", 25, 1.0, n)[1]
    mean, variance = moments("stochastic_heun", 25, 1.0, n)
    assert bool((mean.abs() <= 4 * (VARIANCE / n).sqrt() + 0.01).all())
    assert float(variance.abs().max()) <= 4 * math.sqrt(2 / n) + 0.02
    assert float(euler.abs().max()) > 3 * float(variance.abs().max())


@pytest.mark.parametrize("method", METHODS)
def test_backwards_the_source_comes_back(method: str) -> None:
    n = 40_000
    mean, variance = moments(method, 100, 0.5, n, backward=True)
    assert bool((mean.abs() <= 4 / math.sqrt(n) + 0.01).all())
    assert float(variance.abs().max()) <= 4 * math.sqrt(2 / n) + 0.03


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_samples_the_target(form: str) -> None:
    n = 10_000
    mean, variance = moments("euler_maruyama", 100, form, n)
    assert bool((mean.abs() <= 4 * (VARIANCE / n).sqrt() + 0.02).all())
    assert float(variance.abs().max()) <= 4 * math.sqrt(2 / n) + 0.05


def test_forms_have_their_closed_values() -> None:
    times = [0.1, 0.5, 0.8]

    def close(diffusion: Any, path: Interpolant, expected: list[float]) -> None:
        assert amounts(diffusion, path, times) == pytest.approx(expected, abs=1e-12)

    close("constant", Linear(), [1.0] * 3)
    close("sbdm", Linear(), [(1 - t) / t for t in times])
    close("sbdm", Trigonometric(), [math.pi / 2 / math.tan(math.pi / 2 * t) for t in times])
    # the diffusion that noises data along the variance-preserving path has g^2 = beta, and eps = g^2 / 2
    close("sbdm", VariancePreserving(), [((1 - t) * 19.9 + 0.1) / 2 for t in times])
    close("sigma", Trigonometric(), [math.cos(math.pi / 2 * t) for t in times])
    close("linear", Linear(), [0.9, 0.5, 0.2])
    close("decreasing", Linear(), [0.25 * (math.cos(math.pi * t) + 1) ** 2 for t in times])
    close("increasing-decreasing", Linear(), [math.sin(math.pi * t) ** 2 for t in times])
    close(Diffusion("linear", 3.0), Linear(), [2.7, 1.5, 0.6])
    close(0.7, Linear(), [0.7] * 3)
    close(lambda t: t * t, Linear(), [0.01, 0.25, 0.64])
    assert amounts("sbdm", Linear(), [0.0]) == [0.0]


@pytest.mark.parametrize(("method", "ode"), [("euler_maruyama", "euler"), ("stochastic_heun", "heun")])
@pytest.mark.parametrize("last_step", ["ode", "mean", "full"])
def test_without_diffusion_it_is_the_ode_bit_for_bit_and_draws_nothing(method: str, ode: str, last_step: str) -> None:
    flow, x0 = target().flow(), torch.randn(8, 2, generator=seeded())
    plain = integrate(flow, x0, steps=7, method=ode).x
    for diffusion in (0.0, Diffusion("sigma", 0.0), lambda t: 0.0):
        generator = seeded(5)
        found = integrate(
            flow, x0, steps=7, method=method, diffusion=diffusion, last_step=last_step, generator=generator
        )
        assert torch.equal(found.x, plain)
        assert torch.equal(generator.get_state(), seeded(5).get_state())
    coupled = Flow(target().velocity, independent=False)
    assert torch.equal(integrate(coupled, x0, steps=7, method=method, diffusion=0.0, generator=seeded()).x, plain)


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_alone_decides(method: str) -> None:
    before = torch.get_rng_state()

    def draw(seed: int) -> Tensor:
        end: Tensor = sample(target().flow(), (8, 2), steps=5, method=method, generator=seeded(seed))
        return end

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_last_steps_of_euler_maruyama() -> None:
    """One step from t = 0.6 to 1 with eps = 0.3."""
    law = target()
    x, t, h, eps = torch.randn(8, 2, generator=seeded()), torch.full((8,), 0.6), 0.4, 0.3
    v, score, n = law.velocity(x, t), law.score(x, t), torch.randn(8, 2, generator=seeded(3))
    drifted = x + h * (v + eps * score)
    expected = {
        "ode": x + h * v,
        "mean": drifted,
        "full": drifted + math.sqrt(2 * eps * h) * n,
        "tweedie": law.data(x, t),
    }
    for last_step, end in expected.items():
        found = integrate(
            law.flow(),
            x,
            times=torch.tensor([0.6, 1.0]),
            method="euler_maruyama",
            diffusion=eps,
            last_step=last_step,
            generator=seeded(3),
        )
        torch.testing.assert_close(found.x, end, atol=1e-12, rtol=0)
    backward = integrate(
        law.flow(),
        x,
        times=torch.tensor([0.6, 0.2]),
        method="euler_maruyama",
        diffusion=eps,
        last_step="full",
        generator=seeded(3),
    )
    torch.testing.assert_close(backward.x, x - h * (v - eps * score) + math.sqrt(2 * eps * h) * n, atol=1e-12, rtol=0)


def test_last_steps_of_stochastic_heun() -> None:
    """One step from t = 0.5 to 0.8 with eps = t: slopes use eps at their own time, the noise that of the middle."""
    law, h = target(), 0.3
    x, n = torch.randn(8, 2, generator=seeded()), torch.randn(8, 2, generator=seeded(3))

    def slope(y: Tensor, time: float, noisy: bool = True) -> Tensor:
        t = torch.full((8,), time)
        return law.velocity(y, t) + (time * law.score(y, t) if noisy else 0.0)

    kick = math.sqrt(2 * 0.65 * h) * n
    for last_step, noise, noisy in (("full", kick, True), ("mean", 0 * n, True), ("ode", 0 * n, False)):
        first = slope(x, 0.5, noisy)
        expected = x + h / 2 * (first + slope(x + h * first + noise, 0.8, noisy)) + noise
        found = integrate(
            law.flow(),
            x,
            times=torch.tensor([0.5, 0.8]),
            method="stochastic_heun",
            diffusion=lambda t: t,
            last_step=last_step,
            generator=seeded(3),
        )
        torch.testing.assert_close(found.x, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("method", "cost"), [("euler_maruyama", 1), ("stochastic_heun", 2)])
@pytest.mark.parametrize("last_step", ["ode", "mean", "tweedie", "full"])
def test_scores_come_without_further_evaluations(method: str, cost: int, last_step: str) -> None:
    calls = 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -x

    seen: list[Tensor] = []
    found = integrate(
        Flow(model),
        torch.ones(2, 1),
        steps=6,
        method=method,
        last_step=last_step,
        observe=lambda i, t, x, v: seen.append(v + x),
        generator=seeded(),
    )
    assert found.nfe == calls == 6 * cost - (cost - 1 if last_step == "tweedie" else 0)
    assert len(seen) == 6
    assert not any(bool(difference.any()) for difference in seen)


@pytest.mark.parametrize("predicts", ["data", "noise", "score"])
def test_any_prediction_gives_the_same_path(predicts: Any) -> None:
    law = target(Trigonometric())
    x, times = torch.randn(8, 2, generator=seeded()), torch.linspace(0.1, 0.9, 9)
    ends = [
        integrate(
            Flow(getattr(law, kind), Trigonometric(), kind),
            x,
            times=times,
            method="euler_maruyama",
            last_step="full",
            generator=seeded(1),
        ).x
        for kind in ("velocity", predicts)
    ]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-10, rtol=0)


def test_a_score_network_is_used_and_counted() -> None:
    law = target()
    x, times = torch.randn(8, 2, generator=seeded()), torch.linspace(0.1, 0.9, 9)
    flows = [law.flow(), Flow(law.velocity, independent=False, score_model=law.score)]
    found = [
        integrate(flow, x, times=times, method="euler_maruyama", last_step="full", generator=seeded(1))
        for flow in flows
    ]
    torch.testing.assert_close(found[0].x, found[1].x, atol=1e-10, rtol=0)
    assert [solution.nfe for solution in found] == [8, 16]


def test_noise_lives_in_the_space() -> None:
    flow = Flow(lambda x, t: torch.zeros_like(x), space=ZeroMean())
    x0 = flow.sample_source((4, 5, 3), generator=seeded())
    end = integrate(flow, x0, steps=4, method="euler_maruyama", diffusion=1.0, generator=seeded()).x
    assert float(end.mean(1).abs().max()) < 1e-12
    both = Flow(
        lambda x, t: {name: torch.zeros_like(part) for name, part in x.items()},
        space=Product(a=Euclidean(), b=Euclidean()),
    )
    parts = integrate(
        both,
        {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1)},
        steps=2,
        method="stochastic_heun",
        diffusion=1.0,
        generator=seeded(),
    ).x
    assert bool((parts["a"] != 0).all() and (parts["b"] != 0).all())


def test_a_nan_is_named_by_walking_the_same_noise_again() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((x > 0.5) & (t[:, None] > 0.25), torch.nan, 0 * x)  # whether and when depends on the noise

    flow, x = Flow(model, predicts="velocity"), torch.zeros(64, 1)
    for method in METHODS:
        kept = integrate(
            flow, x, steps=10, method=method, diffusion=0.1, generator=seeded(), check_finite=False, trajectory=True
        ).trajectory
        assert kept is not None
        first = next(i for i, state in enumerate(kept) if bool(state.isnan().any()))
        assert 1 < first < 10
        with pytest.raises(NonFiniteError, match=rf"at step {first} of 10 \({method}\)"):
            integrate(flow, x, steps=10, method=method, diffusion=0.1, generator=seeded())


def test_refusals() -> None:
    law, x = target(), torch.ones(2, 2)
    run = functools.partial(integrate, law.flow(), x, steps=3, method="euler_maruyama", generator=seeded())
    with pytest.raises(ConfigError, match=r"'sbmd' is unknown; allowed: constant, .*sbdm"):
        run(diffusion="sbmd")
    with pytest.raises(ConfigError, match="scale is -1"):
        run(diffusion=Diffusion("linear", -1.0))
    with pytest.raises(ConfigError, match=r"-0\.5 at t = 0"):
        run(diffusion=-0.5)
    with pytest.raises(ConfigError, match=r"inf at t = 0\.333"):
        run(diffusion=lambda t: math.inf if t > 0 else 0.0)
    with pytest.raises(ConfigError, match="last_step is 'none'; allowed: ode, mean, tweedie, full"):
        run(last_step="none")
    with pytest.raises(ConfigError, match=r"end at 0\.5; allowed: 1"):
        run(steps=None, times=torch.tensor([0.0, 0.5]), last_step="tweedie")
    with pytest.raises(ConfigError, match="'euler_maruyama' draws noise and got no generator"):
        run(generator=None)
    with pytest.raises(ConversionError, match="score is not defined"):
        integrate(Flow(law.velocity, independent=False), x, steps=3, method="stochastic_heun", generator=seeded())
