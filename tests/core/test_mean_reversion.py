"""Mean-reverting paths against the sampler and the process of arXiv 2502.07856, written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from rectiflow.mean_reversion import Offset, mean_reverting
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate, sample
from rectiflow.sources import Gaussian

LAMBDA = 0.4
MU = torch.tensor([[2.0, -1.0], [0.5, 3.0], [-2.0, 0.0]], dtype=torch.float64)
PATHS = [VariancePreserving(), Trigonometric()]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def denoiser(x: Tensor, t: Tensor, mu: Tensor) -> Tensor:
    """A network on the mean-reverting path that sees its condition."""
    return torch.tanh(x) + 0.3 * mu + t[:, None]


@pytest.mark.parametrize("path", PATHS)
def test_sampling_is_the_mean_reverting_sampler(path: Interpolant) -> None:
    """x' = (s'/s) x + mu (1 - s'/s - k) + k x1_hat, k = A' - A s'/s, step by step: `ddim` and nothing else."""
    flow = mean_reverting(denoiser, "mu", path, scale=LAMBDA, predicts="data")
    times = torch.linspace(0, 0.9, 8)
    x0 = MU + LAMBDA * torch.randn(3, 2, generator=seeded())
    plain = integrate(flow, x0, times=times, method="ddim", cond={"mu": MU}).x

    first = path.coefficients(times[:1])
    x = x0 + (1 - float(first.a) - float(first.s)) * MU
    for t, t_next in itertools.pairwise(times):
        a, s, *_ = path.coefficients(t)
        a_next, s_next, *_ = path.coefficients(t_next)
        ratio = s_next / s
        k = a_next - a * ratio
        x = ratio * x + MU * (1 - ratio - k) + k * denoiser(x, t.expand(3), MU)
    end = times[-1:].expand(3)
    assert isinstance(flow.model, Offset)
    torch.testing.assert_close(flow.model.reverting(plain, end, mu=MU), x, atol=1e-12, rtol=0)


def test_it_is_ddim_in_the_shifted_variable() -> None:
    """y = x - mu follows the plain path from N(0, lambda^2)."""
    path = Trigonometric()
    flow = mean_reverting(denoiser, "mu", path, scale=LAMBDA, predicts="data")
    shifted = Flow(lambda y, t: denoiser(y + MU, t, MU) - MU, path, predicts="data")
    noise = LAMBDA * torch.randn(3, 2, generator=seeded())
    one = integrate(flow, MU + noise, steps=7, method="ddim", cond={"mu": MU}).x
    two = integrate(shifted, noise, steps=7, method="ddim").x + MU
    torch.testing.assert_close(one, two, atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_the_network_meets_the_mean_reverting_process(path: Interpolant) -> None:
    """In training it sees A x1 + (1 - A) mu + lambda s n, and its velocity target there is the derivative of that."""
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    flow = mean_reverting(model, "mu", path, scale=LAMBDA)
    x1 = torch.randn(3, 2, generator=seeded(1))
    draw = flow.draw(x1, {"mu": MU}, generator=seeded())
    error = flow.predict(draw) - draw.target
    assert isinstance(draw.x0, Tensor)
    n = (draw.x0 - MU) / LAMBDA
    c = path.coefficients(draw.t).expand_to(x1)
    torch.testing.assert_close(seen[0], c.a * x1 + (1 - c.a) * MU + LAMBDA * c.s * n, atol=1e-12, rtol=0)
    torch.testing.assert_close(-error, c.da * (x1 - MU) + LAMBDA * c.ds * n, atol=1e-12, rtol=0)


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score"])
def test_every_prediction_gives_the_same_flow(predicts: Prediction) -> None:
    """One Gaussian posterior in closed form: x1 ~ N(1, 0.25) per entry, in all four parametrisations."""
    path, mu = Trigonometric(), 3.0

    def truth(kind: Prediction, x: Tensor, t: Tensor) -> Tensor:
        a, s, da, ds = (value[:, None] for value in path.coefficients(t))
        mean, variance = a + (1 - a) * mu, 0.25 * a**2 + LAMBDA**2 * s**2
        data = 1 + 0.25 * a / variance * (x - mean)
        noise = mu + LAMBDA**2 * s / variance * (x - mean)
        velocity = da * (data - mu) + ds * (noise - mu)
        return {"data": data, "noise": noise, "velocity": velocity, "score": -(x - mean) / variance}[kind]

    flow = mean_reverting(lambda x, t: truth(predicts, x, t), mu, path, scale=LAMBDA, predicts=predicts)
    x, t = 2 * torch.randn(9, 2, generator=seeded()), torch.linspace(0.05, 0.95, 9)
    a, s, da, ds = (value[:, None] for value in path.coefficients(t))
    reverting = x + (1 - a - s) * mu
    torch.testing.assert_close(flow.data(x, t), truth("data", reverting, t), atol=1e-10, rtol=0)
    torch.testing.assert_close(flow.noise(x, t), truth("noise", reverting, t), atol=1e-10, rtol=0)
    torch.testing.assert_close(flow.score(x, t), truth("score", reverting, t), atol=1e-10, rtol=0)
    expected = truth("velocity", reverting, t) + (da + ds) * mu
    torch.testing.assert_close(flow.velocity(x, t), expected, atol=1e-10, rtol=0)
    samples = sample(flow, (4000, 1), steps=100, method="heun", generator=seeded(), dtype=torch.float64)
    assert abs(float(samples.mean()) - 1) < 4 * 0.5 / math.sqrt(4000)
    assert abs(float(samples.std()) - 0.5) < 4 * 0.5 / math.sqrt(8000)


def test_on_a_convex_path_only_the_source_is_special() -> None:
    flow = mean_reverting(denoiser, "mu", Linear(), scale=LAMBDA, predicts="data")
    plain = Flow(denoiser, predicts="data", source=Gaussian("mu", LAMBDA))
    x, t = torch.randn(3, 2, generator=seeded()), torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(flow.velocity(x, t, mu=MU), plain.velocity(x, t, mu=MU), atol=1e-12, rtol=0)


def test_a_missing_condition_is_named() -> None:
    flow = mean_reverting(lambda x, t: x, "mu", Trigonometric())
    with pytest.raises(ConfigError, match=r"condition 'mu'.*\[\]"):
        flow.velocity(torch.zeros(1, 2), torch.zeros(1))
