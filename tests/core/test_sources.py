"""Sources: their laws against scipy, their scores against autograd, and PFGM++ through the Student-t one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal

from rectiflow.analytic import PointsFlow
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Polynomial, Trigonometric
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate, sample
from rectiflow.sources import Components, Empirical, Gaussian, Prior, Source, StudentT
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.zero_mean import ZeroMean

COVARIANCE = torch.tensor([[1.3, 0.4], [0.4, 0.6]], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -2.0], dtype=torch.float64)
POINTS = torch.tensor([[2.0, 0.0, 0.5], [-1.0, 1.5, 0.0], [-1.0, -1.5, 1.0], [0.3, 0.2, -1.0]], dtype=torch.float64)
NAMES: tuple[Prediction, ...] = ("velocity", "data", "noise", "score")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zero(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
    return torch.zeros_like(x)


def draw(source: Source, shape: Any, cond: Any = None, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    return source(shape, cond=cond or {}, generator=seeded(seed), device=torch.device("cpu"), dtype=dtype)


def test_gaussian_moments() -> None:
    n = 100_000
    x = draw(Gaussian(CENTRE, covariance=COVARIANCE), (n, 2))
    assert bool(((x.mean(0) - CENTRE).abs() < 4 * (COVARIANCE.diagonal() / n).sqrt()).all())
    products = (x - CENTRE)[:, :, None] * (x - CENTRE)[:, None]
    assert bool(((products.mean(0) - COVARIANCE).abs() < 4 * products.std(0) / math.sqrt(n)).all())
    y = draw(Gaussian(CENTRE, torch.tensor([0.5, 3.0])), (n, 2))
    assert stats.kstest(((y[:, 1] + 2) / 3).numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(((y[:, 0] - 1) / 0.5).numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("source", [Gaussian(CENTRE, covariance=COVARIANCE), Gaussian(CENTRE, 0.7)])
def test_gaussian_score_is_the_gradient_of_its_log_density(source: Gaussian) -> None:
    covariance = COVARIANCE if source.covariance is not None else 0.49 * torch.eye(2)
    x = torch.randn(5, 2, generator=seeded(), requires_grad=True)
    (expected,) = torch.autograd.grad(MultivariateNormal(CENTRE, covariance).log_prob(x).sum(), x)
    torch.testing.assert_close(source.score(x), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(source.state_of_score(expected), x, atol=1e-12, rtol=0)


def test_a_covariance_covers_all_entries_of_a_sample() -> None:
    """Shape (B, 2, 3): the six entries in the order of flatten."""
    root = torch.randn(6, 6, generator=seeded(1))
    source = Gaussian(covariance=root @ root.mT + torch.eye(6))
    x = torch.randn(4, 2, 3, generator=seeded(), requires_grad=True)
    law = MultivariateNormal(torch.zeros(6), source.covariance)
    (expected,) = torch.autograd.grad(law.log_prob(x.flatten(1)).sum(), x)
    torch.testing.assert_close(source.score(x), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(source.state_of_score(expected), x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), Polynomial(2)])
@pytest.mark.parametrize("predicts", NAMES)
def test_flow_score_with_a_gaussian_source(path: Interpolant, predicts: Prediction) -> None:
    """x1 ~ N(m1, S1) from N(m0, S0): p_t is N(a m1 + s m0, a^2 S1 + s^2 S0), and the network predicts any of the four."""
    m1, spread = torch.tensor([0.5, 0.1]), torch.diag(torch.tensor([0.3, 2.0]))
    x, t = torch.randn(9, 2, generator=seeded()), torch.linspace(0.05, 0.95, 9)
    truth: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for here, time in zip(x, t, strict=True):
        a, s, da, ds = path.coefficients(time)
        mean, covariance = a * m1 + s * CENTRE, a**2 * spread + s**2 * COVARIANCE
        point = here.clone().requires_grad_()
        (score,) = torch.autograd.grad(MultivariateNormal(mean, covariance).log_prob(point), point)
        whitened = torch.linalg.solve(covariance, here - mean)
        data, noise = m1 + a * spread @ whitened, CENTRE + s * COVARIANCE @ whitened
        for name, value in zip(NAMES, (da * data + ds * noise, data, noise, score), strict=True):
            truth[name].append(value)
    expected = {name: torch.stack(values) for name, values in truth.items()}
    flow = Flow(
        lambda x, t: expected[predicts], path, predicts=predicts, source=Gaussian(CENTRE, covariance=COVARIANCE)
    )
    for name in NAMES:
        torch.testing.assert_close(getattr(flow, name)(x, t), expected[name], atol=1e-10, rtol=1e-10)


def test_a_score_network_is_trained_on_the_score_of_its_source() -> None:
    """The target is the score of x_t given x1: -(x_t - a x1 - s m0) / (s scale)^2."""
    flow = Flow(zero, predicts="score", source=Gaussian(3.0, 2.0))
    training = flow.draw(torch.randn(6, 2, generator=seeded(1)), generator=seeded())
    assert isinstance(training.xt, Tensor)
    assert isinstance(training.x1, Tensor)
    t = training.t[:, None]
    expected = -(training.xt - t * training.x1 - (1 - t) * 3.0) / (2 * (1 - t)) ** 2
    torch.testing.assert_close(training.target, expected, atol=1e-10, rtol=1e-10)
    with pytest.raises(ConversionError, match="no weight"):
        flow.loss(torch.zeros(2, 1), weight="velocity", generator=seeded())


def test_a_centre_may_be_a_condition() -> None:
    cond = {"mixture": 10 * torch.arange(8.0)[:, None]}
    source = Gaussian("mixture", 0.1)
    flow = Flow(lambda x, t, mixture: torch.zeros_like(x), predicts="data", source=source)
    x0 = flow.sample_source((8, 1), cond, seeded(), dtype=torch.float64)
    assert 0 < float((x0 - cond["mixture"]).abs().max()) < 1
    score = flow.score(x0, torch.zeros(8), **cond)
    torch.testing.assert_close(score, -(x0 - cond["mixture"]) / 0.01, atol=1e-9, rtol=0)
    with pytest.raises(ConfigError, match=r"'mixture'.*\[\].*pass it too"):
        flow.convert(x0, "noise", "score", x0, torch.zeros(8))


def test_a_centre_reaches_the_estimate_that_a_self_conditioned_network_sees() -> None:
    """E[x1 | x] from a score of 0 is (x - s m0) / a, with m0 the condition."""
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, mixture: Tensor, self_condition: Tensor) -> Tensor:
        seen.append(self_condition)
        return torch.zeros_like(x)

    flow = Flow(model, predicts="score", source=Gaussian("mixture", 0.5), self_conditioning=True)
    cond = {"mixture": torch.tensor([[1.0], [5.0]])}
    integrate(flow, torch.tensor([[2.0], [3.0]]), times=torch.tensor([0.5, 0.75, 1.0]), cond=cond)
    torch.testing.assert_close(seen[1], (torch.tensor([[2.0], [3.0]]) - 0.5 * cond["mixture"]) / 0.5, atol=1e-9, rtol=0)
    seen.clear()
    for seed in range(8):  # one of them meets the recorded pass
        draw_ = flow.draw(torch.zeros(2, 1), cond, generator=seeded(seed))
        flow.predict(draw_, seeded(seed))
    assert any(bool(previous.any()) for previous in seen)


@pytest.mark.parametrize(("entries", "degrees"), [(2, 3.0), (16, 32.0), (5, 1.0)])
def test_student_radius_and_direction(entries: int, degrees: float) -> None:
    """R = r sqrt(b / (1 - b)), r = sigma sqrt(D), b ~ Beta(N/2, D/2); every direction is as likely as its opposite."""
    sigma, n = 1.3, 20_000
    x = draw(StudentT(degrees, sigma), (n, entries)).numpy()
    squares = (x**2).sum(1)
    fraction = squares / (squares + sigma**2 * degrees)
    assert stats.kstest(fraction, stats.beta(entries / 2, degrees / 2).cdf).pvalue > 0.01
    assert stats.kstest(x[:, 0] / sigma, stats.t(degrees).cdf).pvalue > 0.01  # a marginal of the multivariate t
    # the first direction cosine squared of a uniform direction is Beta(1/2, (N-1)/2), independent of the radius
    cosine = x[:, 0] ** 2 / squares
    assert stats.kstest(cosine, stats.beta(0.5, (entries - 1) / 2).cdf).pvalue > 0.01
    assert abs(stats.spearmanr(cosine, squares).statistic) < 4 / math.sqrt(n)


def test_student_second_moment() -> None:
    """E|x|^2 / N = sigma^2 D / (D - 2); N = 16, D = 32, sigma = 1.3 gives 1.8027."""
    x = draw(StudentT(32.0, 1.3), (50_000, 2, 8))
    means = x.flatten(1).square().mean(1)
    assert abs(float(means.mean()) - 1.3**2 * 32 / 30) < 4 * float(means.std()) / math.sqrt(50_000)
    assert draw(StudentT(4.0), (3, 2), dtype=torch.float32).dtype is torch.float32


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_points_flow_weighs_by_the_kernel(path: Interpolant) -> None:
    """Bayes by hand, with scipy's densities of x0 = (x - a y_k) / s."""
    x, t = torch.randn(7, 3, generator=seeded()), torch.linspace(0.1, 0.9, 7)
    for degrees in (2.5, 64.0, math.inf):
        flow = PointsFlow(POINTS, path, degrees)
        law = (
            stats.multivariate_normal(np.zeros(3))
            if math.isinf(degrees)
            else stats.multivariate_t(np.zeros(3), np.eye(3), df=degrees)
        )
        for here, time in zip(x, t, strict=True):
            a, s, da, ds = path.coefficients(time)
            weights = torch.as_tensor(law.pdf(((here - a * POINTS) / s).numpy()))
            data = weights @ POINTS / weights.sum()
            torch.testing.assert_close(flow.data(here[None], time[None])[0], data, atol=1e-10, rtol=0)
            velocity = da * data + ds * (here - a * data) / s
            torch.testing.assert_close(flow.velocity(here[None], time[None])[0], velocity, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(
                flow.flow().velocity(here[None], time[None])[0], velocity, atol=1e-10, rtol=1e-10
            )


def test_many_degrees_are_a_gaussian() -> None:
    x, t = 2 * torch.randn(50, 3, generator=seeded()), torch.linspace(0.02, 0.9, 50)
    heavy, normal = PointsFlow(POINTS, degrees=1e6), PointsFlow(POINTS)
    assert float((heavy.data(x, t) - normal.data(x, t)).abs().max()) < 1e-3
    assert float((PointsFlow(POINTS, degrees=3.0).data(x, t) - normal.data(x, t)).abs().max()) > 0.05
    assert stats.kstest(draw(StudentT(1e6), (20_000, 1))[:, 0].numpy(), "norm").pvalue > 0.01


def test_flow_matching_from_a_student_source_is_pfgm() -> None:
    """The minimiser is the denoiser of the kernel (|x - y|^2 + r^2)^(-(N+D)/2), orthogonality at 4 standard errors, and in
    x / a and sigma = s / a the flow is dx/dsigma = (x - denoised) / sigma."""
    flow = PointsFlow(POINTS, degrees=4.0)
    n = 100_000
    x1 = POINTS[torch.randint(4, (n,), generator=seeded(1))]
    training = flow.flow().draw(x1, generator=seeded(2))
    assert isinstance(training.xt, Tensor)
    error = x1 - flow.data(training.xt, training.t)
    for probe in (
        torch.ones(n, 1),
        torch.tanh(training.xt),
        torch.cos(3 * training.t)[:, None],
        torch.sin(training.xt),
    ):
        products = error * probe
        assert bool((products.mean(0).abs() < 4 * products.std(0) / math.sqrt(n)).all())

    x, t = torch.randn(5, 3, generator=seeded()), torch.linspace(0.2, 0.8, 5)
    a, sigma = t[:, None], ((1 - t) / t)[:, None]
    scaled_rate = flow.velocity(x, t) / a - x / a**2  # d(x / a) / dt
    sigma_rate = -1 / a**2
    torch.testing.assert_close(scaled_rate / sigma_rate, (x / a - flow.data(x, t)) / sigma, atol=1e-10, rtol=0)


def test_the_prior_of_pfgm_flows_to_the_points() -> None:
    ends = sample(PointsFlow(POINTS, degrees=8.0).flow(), (200, 3), steps=100, generator=seeded(), dtype=torch.float64)
    nearest, which = torch.cdist(ends, POINTS).min(1)
    assert float(nearest.median()) < 1e-3
    assert set(which.tolist()) == {0, 1, 2, 3}


def test_the_score_is_refused_for_sources_without_one() -> None:
    for source in (StudentT(4.0), Empirical(POINTS)):
        with pytest.raises(ConversionError, match=r"its own source.*Gaussian"):
            Flow(zero, source=source).score(torch.zeros(1, 3), torch.ones(1))
        with pytest.raises(ConversionError, match="Gaussian"):
            Flow(zero, source=source, predicts="score")
    with pytest.raises(ConversionError, match="coupled"):
        Flow(zero, source=Gaussian(), independent=False).score(torch.zeros(1, 3), torch.ones(1))


def test_empirical_draws_rows_evenly() -> None:
    n = 10_000
    x = draw(Empirical(POINTS), (n, 3))
    counts = [int((x == row).all(1).sum()) for row in POINTS]
    assert sum(counts) == n
    assert stats.chisquare(counts).pvalue > 1e-4
    assert torch.equal(x, draw(Empirical(POINTS), (n, 3)))
    assert not torch.equal(x, draw(Empirical(POINTS), (n, 3), seed=1))


def test_components_and_priors() -> None:
    space = Product(place=Euclidean(), set=ZeroMean())
    source = Components(place=Gaussian(5.0, 0.1), set=Prior(ZeroMean()))
    shape = {"place": (64, 3), "set": (64, 4, 2)}
    state = draw(source, shape)
    assert float((state["place"] - 5).abs().max()) < 1
    torch.testing.assert_close(state["set"].mean(1), torch.zeros(64, 2), atol=1e-12, rtol=0)
    training = Flow(lambda x, t: x, space=space, source=source).draw(state, generator=seeded())
    assert isinstance(training.x0, dict)
    assert float((training.x0["place"] - 5).abs().max()) < 1


@pytest.mark.parametrize("source", [Gaussian(CENTRE, covariance=COVARIANCE), StudentT(3.0), Empirical(POINTS[:, :2])])
def test_only_the_given_generator_is_drawn_from(source: Source) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(draw(source, (5, 2)), draw(source, (5, 2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="scale 0"):
        Gaussian(scale=0.0)
    with pytest.raises(ConfigError, match="give one of them"):
        Gaussian(scale=2.0, covariance=COVARIANCE)
    with pytest.raises(ConfigError, match=r"\(2, 2\).*positive definite"):
        Gaussian(covariance=-COVARIANCE)
    with pytest.raises(ConfigError, match="positive definite"):
        Gaussian(covariance=torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ConfigError, match=r"degrees 0\.0"):
        StudentT(0.0)
    with pytest.raises(ConfigError, match=r"scale -1\.0"):
        StudentT(3.0, -1.0)
    with pytest.raises(ConfigError, match="degrees -1"):
        PointsFlow(POINTS, degrees=-1.0)
    with pytest.raises(ConfigError, match="at least one row"):
        Empirical(torch.zeros(0, 3))
    with pytest.raises(ConfigError, match=r"rows \(3,\).*\(2,\)"):
        draw(Empirical(POINTS), (4, 2))
    with pytest.raises(ConfigError, match=r"\['a'\].*Components"):
        draw(Gaussian(), {"a": (1, 2)})
    with pytest.raises(ConfigError, match=r"\['b'\].*\['a'\]"):
        draw(Components(a=Gaussian()), {"b": (1, 2)})
    with pytest.raises(ConfigError, match=r"'a' drew a dict"):
        draw(Components(a=Prior(Product(p=Euclidean()))), {"a": {"p": (1, 2)}})
