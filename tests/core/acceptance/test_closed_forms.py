"""Sentences of the acceptance set that no other file shows: scores of a mixture, both ways of an SDE, the price of a coupling."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.couplings import MinibatchOT
from rectiflow.flow import Flow
from rectiflow.interpolants import (
    Interpolant,
    Linear,
    LinearVariancePreserving,
    Polynomial,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)
from rectiflow.predictions import PREDICTIONS, Prediction
from rectiflow.sampling import integrate

PATHS = [
    Linear(),
    Trigonometric(),
    Polynomial(),
    VariancePreserving(),
    SubVariancePreserving(),
    LinearVariancePreserving(),
]
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], dtype=torch.float64)
SPREADS = torch.stack([torch.eye(2, dtype=torch.float64) * v for v in (0.2, 0.5, 0.1)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_score_of_any_prediction_is_the_gradient_of_the_mixture_density(
    path: Interpolant, predicts: Prediction
) -> None:
    """Densities and their gradients by torch.distributions and autograd, at times from 0.02 to 0.98."""
    target = MixtureFlow(WEIGHTS, MEANS, SPREADS, path)
    flow = Flow(getattr(target, predicts), path, predicts)
    t = torch.linspace(0.02, 0.98, 25)
    c = path.coefficients(t)
    x = c.a[:, None] * target.sample(25, seeded(1)) + c.s[:, None] * torch.randn(25, 2, generator=seeded(2))
    here = x.clone().requires_grad_()
    parts = MultivariateNormal(
        c.a[:, None, None] * MEANS,
        c.a[:, None, None, None] ** 2 * SPREADS + c.s[:, None, None, None] ** 2 * torch.eye(2),
    )
    law = MixtureSameFamily(Categorical(WEIGHTS.expand(25, 3)), parts)
    (expected,) = torch.autograd.grad(law.log_prob(here).sum(), here)
    torch.testing.assert_close(flow.score(x, t), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("method", ["euler_maruyama", "stochastic_heun"])
def test_forward_and_back_again_the_source_has_its_moments(method: str) -> None:
    n, steps = 40_000, 100
    mean, variance = torch.tensor([1.0, -2.0]), torch.tensor([0.25, 1.0])
    flow = GaussianFlow(mean, torch.diag(variance)).flow()
    grid = torch.linspace(0, 1, steps + 1)
    x: Tensor = torch.randn(n, 2, generator=seeded(1))
    for seed, times in ((2, grid), (3, grid.flip(0))):
        x = integrate(flow, x, times=times, method=method, diffusion=0.5, generator=seeded(seed)).x
    assert bool((x.mean(0).abs() <= 4 / math.sqrt(n) + 0.01).all())
    assert float((x.var(0) - 1).abs().max()) <= 4 * math.sqrt(2 / n) + 0.03


def test_pairing_a_batch_of_256_takes_under_50_milliseconds() -> None:
    """In processor time, the best of five."""
    x0, x1 = torch.randn(2, 256, 64, generator=seeded(), dtype=torch.float32)
    taken = []
    for _ in range(5):
        began = time.process_time()
        MinibatchOT()(x0, x1)
        taken.append(time.process_time() - began)
    assert min(taken) < 0.05
