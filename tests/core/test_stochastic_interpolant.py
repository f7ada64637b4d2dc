"""Paths with latent noise: schedules against autograd, closed forms against block covariances, training against both."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from rectiflow.analytic import GaussianFlow, JointGaussianFlow
from rectiflow.couplings import MinibatchOT
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import END, Interpolant, Linear, Trigonometric
from rectiflow.predictions import Prediction
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.zero_mean import ZeroMean
from rectiflow.stochastic_interpolant import (
    BrownianLatent,
    Latent,
    LatentScore,
    QuadraticLatent,
    SigmoidLatent,
    SineSquaredLatent,
    StochasticInterpolant,
)
from rectiflow.times import TimeLaw

LATENTS = [
    BrownianLatent(),
    BrownianLatent(0.3),
    QuadraticLatent(),
    SineSquaredLatent(),
    SigmoidLatent(),
    SigmoidLatent(4.0),
]
PATHS = [StochasticInterpolant(Linear(), latent) for latent in LATENTS] + [
    StochasticInterpolant(Trigonometric(), BrownianLatent(), preserving=True),
    StochasticInterpolant(Trigonometric(), QuadraticLatent(), preserving=True),
]
MEANS = (torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([1.5, 2.0], dtype=torch.float64))
ROOT = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.3, 0.8, 0.0, 0.0], [0.5, -0.2, 0.6, 0.0], [-0.1, 0.4, 0.3, 0.5]], dtype=torch.float64
)
JOINT = ROOT @ ROOT.mT
BLOCKS = (JOINT[:2, :2], JOINT[2:, 2:]), JOINT[:2, 2:]


class At(TimeLaw):
    """Always the same time."""

    def __init__(self, time: float) -> None:
        self.time = time

    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        return torch.full((count,), self.time, device=device)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zero(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
    return torch.zeros_like(x)


def oracle(path: Interpolant, gauge: Tensor | None = None) -> JointGaussianFlow:
    return JointGaussianFlow(MEANS, *BLOCKS, path, gauge)


def conditional_slope(path: StochasticInterpolant, t: float, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Slope of E[. | x_t] for x_t' (or its part without latent noise, or z), its residual covariance, and Cov(x_t)."""
    a, s, da, ds = path.coefficients(torch.tensor(t))
    g, dg, _ = path.latent.coefficients(torch.tensor(t))
    eye = torch.eye(2)
    everything = torch.block_diag(JOINT, eye)
    state = torch.cat([s * eye, a * eye, g * eye], 1)
    weights = {"velocity": (ds, da, dg), "drift": (ds, da, 0.0), "noise": (0.0, 0.0, 1.0)}[what]
    rows = torch.cat([float(weight) * eye for weight in weights], 1)
    covariance = state @ everything @ state.mT
    slope = rows @ everything @ state.mT @ torch.linalg.inv(covariance)
    return slope, rows @ everything @ rows.mT - slope @ covariance @ slope.mT, covariance


@pytest.mark.parametrize("latent", LATENTS)
def test_schedules_vanish_at_both_ends_and_differentiate(latent: Latent) -> None:
    assert float(latent.coefficients(torch.tensor([0.0, 1.0])).g.abs().max()) < 1e-15
    t = torch.linspace(0.001, 0.999, 41).requires_grad_()
    g, dg, gdg = latent.coefficients(t)
    (expected,) = torch.autograd.grad(g.sum(), t)
    torch.testing.assert_close(dg, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gdg, g * expected, atol=1e-12, rtol=0)
    assert bool((g > 0).all())
    torch.testing.assert_close(g, g.flip(0), atol=1e-12, rtol=0)  # all forms are even about 1/2
    ends = latent.coefficients(torch.tensor([0.0, 1.0]))
    assert all(bool(torch.isfinite(value).all()) for value in ends)


def test_schedule_values() -> None:
    quarter = torch.tensor(0.25)
    logistic = [1 / (1 + math.exp(-v)) for v in (-2.5 + 1, -2.5 - 1, -5 + 1, -5 - 1)]
    for latent, g, dg in (
        (BrownianLatent(), math.sqrt(3) / 4, 1 / math.sqrt(3)),
        (BrownianLatent(4.0), math.sqrt(3) / 2, 2 / math.sqrt(3)),
        (QuadraticLatent(), 3 / 16, 0.5),
        (SineSquaredLatent(), 0.5, math.pi),
        (SigmoidLatent(), logistic[0] - logistic[1] - logistic[2] + logistic[3], None),
    ):
        c = latent.coefficients(quarter)
        assert float(c.g) == pytest.approx(g, rel=1e-12)
        assert dg is None or float(c.dg) == pytest.approx(dg, rel=1e-12)
    ends = BrownianLatent(0.3).coefficients(torch.tensor([0.0, 1.0]))
    assert ends.gdg.tolist() == [0.15, -0.15]


@pytest.mark.parametrize("path", [*PATHS, *(path.one_sided() for path in PATHS)])
def test_path_derivatives_equal_autograd(path: Interpolant) -> None:
    t = torch.linspace(0.001, 0.999, 41).requires_grad_()
    c = path.coefficients(t)
    for value, derivative in ((c.a, c.da), (c.s, c.ds)):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, atol=1e-12, rtol=1e-12)
    ends = path.coefficients(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends.a, torch.tensor([0.0, 1.0]), atol=1e-12, rtol=0)
    torch.testing.assert_close(ends.s, torch.tensor([1.0, 0.0]), atol=1e-12, rtol=0)
    assert all(bool(torch.isfinite(value).all()) for value in ends)


def test_a_preserving_path_keeps_the_variance() -> None:
    t = torch.linspace(0, 1, 21)
    for path in PATHS[-2:]:
        c, latent = path.coefficients(t), path.latent.coefficients(t)
        torch.testing.assert_close(c.a**2 + c.s**2 + latent.g**2, torch.ones(21), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_closed_forms_are_conditional_expectations(path: StochasticInterpolant) -> None:
    flow = oracle(path)
    x = torch.randn(5, 2, generator=seeded())
    for t in (0.1, 0.5, 0.8):
        time = torch.full((5,), t)
        a, s, da, ds = path.coefficients(torch.tensor(t))
        slope, _, covariance = conditional_slope(path, t, "velocity")
        centred = x - a * MEANS[1] - s * MEANS[0]
        expected = da * MEANS[1] + ds * MEANS[0] + centred @ slope.mT
        torch.testing.assert_close(flow.velocity(x, time), expected, atol=1e-10, rtol=0)
        latent = centred @ conditional_slope(path, t, "noise")[0].mT
        torch.testing.assert_close(flow.latent(x, time), latent, atol=1e-10, rtol=0)
        here = x.clone().requires_grad_()
        law = MultivariateNormal(a * MEANS[1] + s * MEANS[0], covariance)
        (score,) = torch.autograd.grad(law.log_prob(here).sum(), here)
        torch.testing.assert_close(flow.score(x, time), score, atol=1e-10, rtol=0)
        drift = da * MEANS[1] + ds * MEANS[0] + centred @ conditional_slope(path, t, "drift")[0].mT
        torch.testing.assert_close(path.drift_to_velocity(drift, score, time), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", [Linear(), PATHS[0], PATHS[-1]])
def test_a_gauge_moves_the_same_density(path: Interpolant) -> None:
    """d/dt log p = -div v - v . grad log p for two velocities that differ."""
    turn = torch.tensor([[0.0, 0.7], [-0.7, 0.0]])
    plain, turned = oracle(path), oracle(path, turn)
    t = torch.tensor([0.3], requires_grad=True)
    x = torch.tensor([[0.4, 1.1]])
    (rate,) = torch.autograd.grad(MultivariateNormal(plain.mean(t), plain.covariance(t)).log_prob(x).sum(), t)
    now = t.detach()
    assert float((plain.velocity(x, now) - turned.velocity(x, now)).abs().max()) > 0.1
    for flow in (plain, turned):
        jacobian = torch.autograd.functional.jacobian(lambda y, flow=flow: flow.velocity(y[None], now)[0], x[0])
        flux = jacobian.diagonal().sum() + (flow.velocity(x, now) * flow.score(x, now)).sum()
        assert float(rate) == pytest.approx(-float(flux), abs=1e-9)


def test_gaussian_ends_without_coupling_are_the_known_flow() -> None:
    covariance = BLOCKS[0][1]
    ends = (torch.zeros(2), MEANS[1]), (torch.eye(2), covariance), torch.zeros(2, 2)
    x, t = torch.randn(9, 2, generator=seeded()), torch.linspace(0.05, 0.95, 9)
    known = GaussianFlow(MEANS[1], covariance)
    torch.testing.assert_close(JointGaussianFlow(*ends).velocity(x, t), known.velocity(x, t), atol=1e-10, rtol=0)
    for path in PATHS:
        noisy, folded = JointGaussianFlow(*ends, path), GaussianFlow(MEANS[1], covariance, path.one_sided())
        torch.testing.assert_close(noisy.velocity(x, t), folded.velocity(x, t), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(noisy.score(x, t), folded.score(x, t), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", [PATHS[0], PATHS[3], PATHS[-1]])
@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
def test_training_regresses_on_the_closed_form(path: StochasticInterpolant, predicts: Prediction) -> None:
    """Coupled ends, one time: the least-squares slope of target on state against the covariance formula, 5 standard errors."""
    time, n = 0.3, 40_000
    x0, x1 = oracle(path).sample(n, seeded(1))
    draw = Flow(zero, path, predicts).draw(x1, x0=x0, times=At(time), generator=seeded(2))
    assert isinstance(draw.xt, Tensor)
    assert isinstance(draw.target, Tensor)
    assert len(draw.xt) == 2 * n
    slope, residual, covariance = conditional_slope(path, time, "velocity" if predicts == "velocity" else "noise")
    if predicts == "score":
        g = path.latent.coefficients(torch.tensor(time)).g
        slope, residual = -slope / g, residual / g**2
    design = torch.cat([draw.xt, torch.ones(2 * n, 1)], 1)
    fitted = torch.linalg.lstsq(design, draw.target).solution[:2].mT
    # n and not 2 n rows: antithetic pairs are not independent
    errors = (residual.diagonal()[:, None] * torch.linalg.inv(covariance).diagonal() / n).sqrt()
    assert bool(((fitted - slope).abs() < 5 * errors).all())
    assert float(slope.abs().max()) > 20 * float(errors.max())


def test_antithetic_rows_share_everything_but_the_sign_of_the_noise() -> None:
    x1 = torch.randn(6, 3, 2, generator=seeded(1))
    mask = torch.arange(3)[None] < torch.arange(1, 7)[:, None]
    flow = Flow(zero, PATHS[2])
    draw = flow.draw(x1, {"label": torch.arange(6)}, mask=mask, generator=seeded())
    assert isinstance(draw.xt, Tensor)
    assert isinstance(draw.latent, Tensor)
    assert torch.equal(draw.cond["label"], torch.arange(6).repeat(2))
    assert torch.equal(draw.index, torch.arange(6).repeat(2))
    assert isinstance(draw.mask, Tensor)
    assert torch.equal(draw.mask, mask.repeat(2, 1))
    assert torch.equal(draw.latent[:6], -draw.latent[6:])
    t = draw.t[:6, None, None]
    assert isinstance(draw.x0, Tensor)
    torch.testing.assert_close((draw.xt[:6] + draw.xt[6:]) / 2, t * x1 + (1 - t) * draw.x0[:6])
    torch.testing.assert_close((draw.xt[:6] - draw.xt[6:]) / 2, t * (1 - t) * draw.latent[:6])
    torch.testing.assert_close(
        draw.target, torch.cat([x1 - draw.x0[:6]] * 2) + (1 - 2 * draw.t[:, None, None]) * draw.latent
    )
    once = StochasticInterpolant(Linear(), QuadraticLatent(), antithetic=False)
    assert len(Flow(zero, once).draw(x1, generator=seeded()).t) == 6


def test_antithetic_gradients_stay_calm_at_the_ends() -> None:
    """The gradient of a linear model next to t = 0, where g' is 50: pairs cancel what single draws are drowned in."""
    spreads = []
    for antithetic in (True, False):
        path = StochasticInterpolant(Linear(), BrownianLatent(), antithetic=antithetic)
        gradients = []
        for seed in range(200):
            slope = torch.tensor(1.0, requires_grad=True)
            flow = Flow(lambda x, t, slope=slope: slope * x, path)
            x0, x1 = oracle(path).sample(16, seeded(seed))
            flow.loss(x1, x0=x0, times=At(1e-4), generator=seeded(1000 + seed)).backward()
            assert slope.grad is not None
            gradients.append(slope.grad)
        spreads.append(float(torch.stack(gradients).std()))
    assert spreads[0] < spreads[1] / 5


def test_targets_are_finite_at_the_very_ends() -> None:
    x1 = torch.ones(2, 1)
    for predicts in ("velocity", "noise", "score"):
        for time in (0.0, 1.0):
            draw = Flow(zero, PATHS[0], predicts).draw(x1, times=At(time), generator=seeded())
            assert isinstance(draw.target, Tensor)
            assert bool(torch.isfinite(draw.target).all())
    assert float(BrownianLatent().coefficients(torch.tensor(0.0)).dg) == pytest.approx(0.5 / math.sqrt(END), rel=1e-4)


def test_the_score_comes_from_the_latent_noise_whatever_the_coupling() -> None:
    path = PATHS[0]
    truth = oracle(path)
    x, t = torch.randn(9, 2, generator=seeded()), torch.linspace(0.05, 0.95, 9)
    two = Flow(truth.velocity, path, independent=False, score_model=LatentScore(truth.latent, path))
    torch.testing.assert_close(two.score(x, t), truth.score(x, t), atol=1e-10, rtol=0)
    eta = Flow(truth.latent, path, predicts="noise", independent=False)
    torch.testing.assert_close(eta.score(x, t), truth.score(x, t), atol=1e-10, rtol=0)
    direct = Flow(truth.score, path, predicts="score", independent=False)
    torch.testing.assert_close(direct.noise(x, t), truth.latent(x, t), atol=1e-10, rtol=0)
    torch.testing.assert_close(truth.flow().score(x, t), truth.score(x, t), atol=0, rtol=0)
    coupled = Flow(zero, path, predicts="score").draw(x, coupling=MinibatchOT(), generator=seeded())
    assert len(coupled.t) == 18
    ends = torch.tensor([0.0, 1.0])
    assert bool(torch.isfinite(eta.score(x[:2], ends)).all())


def test_latent_noise_lives_in_the_space() -> None:
    """In a subspace the noise is drawn from its prior, so that the path never leaves it."""
    path = StochasticInterpolant(Linear(), QuadraticLatent())
    space = ZeroMean()
    ends = space.sample_prior((4, 5, 3), seeded(1)), space.sample_prior((4, 5, 3), seeded(2))
    draw = Flow(zero, path, space=space).draw(ends[1], x0=ends[0], generator=seeded())
    for state in (draw.xt, draw.target, draw.latent):
        assert isinstance(state, Tensor)
        torch.testing.assert_close(state.mean(1), torch.zeros(8, 3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
def test_the_regression_has_the_gradients_of_the_quadratic_losses(predicts: Prediction) -> None:
    """L_b = |b|^2/2 - (I' + g' z) b, L_s = |s|^2/2 + z s / g, L_eta = |eta - z|^2 / 2, written out by hand."""
    path = PATHS[2]  # g = t (1 - t)
    weight = torch.tensor(0.7, requires_grad=True)
    flow = Flow(lambda x, t: weight * torch.sin(x), path, predicts)
    draw = flow.draw(torch.randn(8, 2, generator=seeded(1)), generator=seeded())
    assert isinstance(draw.x0, Tensor)
    assert isinstance(draw.x1, Tensor)
    assert isinstance(draw.latent, Tensor)
    t, z = draw.t[:, None], draw.latent
    p = flow.model((1 - t) * draw.x0 + t * draw.x1 + t * (1 - t) * z, draw.t)
    by_hand = {
        "velocity": p**2 / 2 - (draw.x1 - draw.x0 + (1 - 2 * t) * z) * p,
        "score": p**2 / 2 + z * p / (t * (1 - t)),
        "noise": (p - z) ** 2 / 2,
    }[predicts]
    (expected,) = torch.autograd.grad(by_hand.mean(), weight)
    (measured,) = torch.autograd.grad(flow.regression(flow.predict(draw), draw), weight)
    torch.testing.assert_close(measured, 2 * expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("attempt", "error", "match"),
    [
        (lambda: BrownianLatent(0.0), ConfigError, r"scale is 0\.0"),
        (lambda: SigmoidLatent(-1.0), ConfigError, r"steepness is -1\.0"),
        (lambda: StochasticInterpolant(PATHS[0]), ConfigError, "latent noise itself"),
        (
            lambda: StochasticInterpolant(Trigonometric(), SineSquaredLatent(), preserving=True),
            ConfigError,
            r"SineSquaredLatent\(\) reaches 1",
        ),
        (lambda: Flow(zero, PATHS[0], space=Sphere()), ConfigError, r"linear space.*Sphere"),
        (lambda: Flow(zero, PATHS[0], predicts="data"), ConversionError, "cannot predict data"),
        (lambda: Flow(zero, PATHS[0]).score(torch.zeros(1, 1), torch.ones(1)), ConversionError, "score_model"),
        (
            lambda: Flow(zero, PATHS[0]).data(torch.zeros(1, 1), torch.ones(1)),
            ConversionError,
            "data does not follow from velo",
        ),
        (
            lambda: Flow(zero, PATHS[0], predicts="noise").velocity(torch.zeros(1, 1), torch.ones(1)),
            ConversionError,
            "velocity does not follow from noise",
        ),
        (
            lambda: Flow(zero, PATHS[0], predicts="noise").loss(
                torch.zeros(2, 1), weight="velocity", generator=seeded()
            ),
            ConversionError,
            "no weight.*noise",
        ),
        (
            lambda: JointGaussianFlow(MEANS, BLOCKS[0], 9 * torch.eye(2, dtype=torch.float64)),
            ConfigError,
            "smallest eigenvalue -",
        ),
        (lambda: oracle(Linear(), torch.eye(2, dtype=torch.float64)), ConfigError, "antisymmetric"),
    ],
)
def test_refusals(attempt: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        attempt()
