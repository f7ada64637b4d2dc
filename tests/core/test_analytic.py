"""The oracles themselves, against densities from torch.distributions, autograd, quadrature and each other."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate as quadrature
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.errors import ConfigError
from rectiflow.interpolants import (
    Interpolant,
    Linear,
    LinearVariancePreserving,
    Lipman,
    Polynomial,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)

PATHS = [
    Linear(),
    Trigonometric(),
    Polynomial(),
    VariancePreserving(),
    SubVariancePreserving(),
    LinearVariancePreserving(),
    Lipman(0.1),
]
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.2, 0.0], [-0.5, 0.7, 0.3], [0.1, 0.0, 0.4]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.mT
WEIGHTS = [0.5, 0.3, 0.2]
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], dtype=torch.float64)
SPREADS = torch.stack([torch.eye(2, dtype=torch.float64) * v for v in (0.2, 0.5, 0.1)])
SPREADS[1, 0, 1] = SPREADS[1, 1, 0] = 0.3


def points(count: int, dimension: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return 1.5 * torch.randn(count, dimension, generator=g), torch.linspace(0.02, 0.98, count)


def gaussian_law(path: Interpolant, t: float) -> MultivariateNormal:
    a, s, *_ = path.coefficients(torch.tensor(t))
    return MultivariateNormal(a * MEAN, a * a * COVARIANCE + s * s * torch.eye(3))


def mixture_law(path: Interpolant, t: float) -> MixtureSameFamily:
    a, s, *_ = path.coefficients(torch.tensor(t))
    parts = MultivariateNormal(a * MEANS, a * a * SPREADS + s * s * torch.eye(2))
    return MixtureSameFamily(Categorical(torch.tensor(WEIGHTS)), parts)


@pytest.mark.parametrize("path", PATHS)
def test_gaussian_score_is_the_gradient_of_the_log_density(path: Interpolant) -> None:
    x, t = points(25, 3)
    score = GaussianFlow(MEAN, COVARIANCE, path).score(x, t)
    for i in range(25):
        here = x[i].clone().requires_grad_()
        (expected,) = torch.autograd.grad(gaussian_law(path, float(t[i])).log_prob(here), here)
        torch.testing.assert_close(score[i], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_mixture_density_and_score(path: Interpolant) -> None:
    x, t = points(25, 2)
    flow = MixtureFlow(WEIGHTS, MEANS, SPREADS, path)
    score, density = flow.score(x, t), flow.log_density(x, t)
    for i in range(25):
        here = x[i].clone().requires_grad_()
        log_density = mixture_law(path, float(t[i])).log_prob(here)
        (expected,) = torch.autograd.grad(log_density, here)
        torch.testing.assert_close(density[i], log_density.detach(), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(score[i], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_velocity_moves_the_density(path: Interpolant, kind: str) -> None:
    """Continuity: d/dt log p = -div v - v . grad log p, with every derivative by autograd on an independent density."""
    if kind == "gaussian":
        velocity, dimension, law = GaussianFlow(MEAN, COVARIANCE, path).velocity, 3, gaussian_law
    else:
        velocity, dimension, law = MixtureFlow(WEIGHTS, MEANS, SPREADS, path).velocity, 2, mixture_law
    x, t = points(10, dimension)
    for i in range(10):
        h, now = 1e-5, float(t[i])
        rate = (law(path, now + h).log_prob(x[i]) - law(path, now - h).log_prob(x[i])) / (2 * h)
        here = x[i].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(law(path, now).log_prob(here), here)
        jacobian = torch.autograd.functional.jacobian(lambda y, s=t[i : i + 1]: velocity(y[None], s)[0], x[i])
        flux = jacobian.diagonal().sum() + velocity(x[i : i + 1], t[i : i + 1])[0] @ gradient
        assert float(rate) == pytest.approx(-float(flux), rel=1e-6, abs=1e-6)
        torch.testing.assert_close(jacobian, jacobian.mT, atol=1e-9, rtol=1e-9)  # a gradient field, the OT-like one


def test_mixture_posterior_means_by_quadrature() -> None:
    """One dimension, E[x1 | x_t = x] as a ratio of two integrals over x1."""
    weights, means, variances, t, x = [0.6, 0.4], [-1.0, 2.0], [0.3, 0.5], 0.4, 0.7
    flow = MixtureFlow(weights, torch.tensor(means)[:, None], torch.tensor(variances)[:, None, None])

    def joint(y: float) -> float:
        prior = sum(w * stats.norm.pdf(y, m, math.sqrt(v)) for w, m, v in zip(weights, means, variances, strict=True))
        return float(prior * stats.norm.pdf(x, t * y, 1 - t))

    data = quadrature.quad(lambda y: y * joint(y), -8, 8)[0] / quadrature.quad(joint, -8, 8)[0]
    state, time = torch.tensor([[x]]), torch.tensor([t])
    assert float(flow.data(state, time)) == pytest.approx(data, abs=1e-7)
    assert float(flow.noise(state, time)) == pytest.approx((x - t * data) / (1 - t), abs=1e-7)
    assert float(flow.velocity(state, time)) == pytest.approx(data - (x - t * data) / (1 - t), abs=1e-7)


@pytest.mark.parametrize("path", PATHS)
def test_gaussian_is_a_mixture_of_one(path: Interpolant) -> None:
    x, t = points(25, 3)
    one, many = GaussianFlow(MEAN, COVARIANCE, path), MixtureFlow([1.0], MEAN[None], COVARIANCE[None], path)
    for name in ("velocity", "score", "data", "noise"):
        torch.testing.assert_close(getattr(one, name)(x, t), getattr(many, name)(x, t), atol=1e-10, rtol=1e-10)
    a, s, *_ = (value[:, None] for value in path.coefficients(t))
    torch.testing.assert_close(a * one.data(x, t) + s * one.noise(x, t), x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_flow_map_solves_its_differential_equation(path: Interpolant) -> None:
    flow = GaussianFlow(MEAN, COVARIANCE, path)
    x, t = points(10, 3)
    r = torch.linspace(0.9, 0.1, 10).requires_grad_()
    end = flow.flow_map(x, t, r)
    columns = [torch.autograd.grad(end[:, i].sum(), r, retain_graph=True)[0] for i in range(3)]
    torch.testing.assert_close(torch.stack(columns, 1), flow.velocity(end, r).detach(), atol=1e-10, rtol=1e-10)
    end, r = end.detach(), r.detach()
    torch.testing.assert_close(flow.flow_map(x, t, t), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(flow.flow_map(end, r, t), x, atol=1e-10, rtol=0)


def test_flow_map_from_the_source_is_the_symmetric_root() -> None:
    flow = GaussianFlow(MEAN, COVARIANCE)
    x0 = points(5, 3)[0]
    values, vectors = torch.linalg.eigh(COVARIANCE)
    expected = MEAN + x0 @ (vectors * values.sqrt()) @ vectors.mT
    torch.testing.assert_close(flow.flow_map(x0, torch.zeros(5), torch.ones(5)), expected, atol=1e-12, rtol=0)


def test_samples_have_the_moments_of_the_target() -> None:
    n = 100_000
    for flow in (GaussianFlow(MEAN, COVARIANCE), MixtureFlow(WEIGHTS, MEANS, SPREADS)):
        if isinstance(flow, GaussianFlow):
            mean, covariance = MEAN, COVARIANCE
        else:
            w = torch.tensor(WEIGHTS)
            mean = w @ MEANS
            centred = MEANS - mean
            covariance = (w[:, None, None] * (SPREADS + centred[:, :, None] * centred[:, None])).sum(0)
        x = flow.sample(n, torch.Generator().manual_seed(3))
        assert bool(((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all())
        products = (x - mean)[:, :, None] * (x - mean)[:, None]
        assert bool(((products.mean(0) - covariance).abs() < 4 * products.std(0) / math.sqrt(n)).all())
        assert torch.equal(x, flow.sample(n, torch.Generator().manual_seed(3)))


def test_a_point_set_is_remembered() -> None:
    """C = 0: the posterior mean is a softmax over the points."""
    flow = MixtureFlow([2.0, 2.0, 2.0], MEANS, torch.zeros(3, 2, 2))
    x, t = points(9, 2)
    expected = torch.stack(
        [
            torch.softmax(-(here - time * MEANS).square().sum(1) / (2 * (1 - time) ** 2), 0) @ MEANS
            for here, time in zip(x, t, strict=True)
        ]
    )
    torch.testing.assert_close(flow.data(x, t), expected, atol=1e-9, rtol=0)
    assert all(bool((row == MEANS).all(1).any()) for row in flow.sample(20, torch.Generator().manual_seed(0)))


def test_float64_accuracy_does_not_hang_on_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float32)
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    flow = MixtureFlow([1.0], torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None])
    at_one = flow.log_density(x, torch.ones(1, dtype=torch.float64))
    assert float(at_one) == pytest.approx(-math.log(2 * math.pi) - 0.065, abs=1e-14)


def test_as_flows_they_carry_their_path() -> None:
    x, t = points(4, 2)
    flow = MixtureFlow(WEIGHTS, MEANS, SPREADS, Trigonometric())
    torch.testing.assert_close(flow.flow().score(x, t), flow.score(x, t), atol=1e-9, rtol=1e-9)
    x, t = points(4, 3)
    gaussian = GaussianFlow(MEAN, COVARIANCE, Trigonometric())
    torch.testing.assert_close(gaussian.flow().data(x, t), gaussian.data(x, t), atol=1e-10, rtol=0)


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="smallest eigenvalue -1"):
        GaussianFlow(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ConfigError, match="symmetric"):
        GaussianFlow(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ConfigError, match=r"\[1\.0, -1\.0\]"):
        MixtureFlow([1.0, -1.0], torch.zeros(2, 1), torch.ones(2, 1, 1))
    with pytest.raises(ConfigError, match=r"weights \(3,\), means \(2, 1\), covariances \(2, 1, 1\)"):
        MixtureFlow([1.0, 1.0, 1.0], torch.zeros(2, 1), torch.ones(2, 1, 1))
    with pytest.raises(ConfigError, match=r"\(2, 1\)"):
        MixtureFlow([1.0, 1.0], torch.zeros(2, 1), torch.ones(2, 1))
