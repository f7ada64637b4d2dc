"""Log-probabilities against torch.distributions, scores, finite differences and one another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import multivariate_t
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError, ConversionError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.interpolants import Linear, Trigonometric
from rectiflow.likelihood import METHODS, bits_per_dimension, dequantise, log_prob, sample_with_log_prob
from rectiflow.sampling import sample
from rectiflow.sources import Components, Empirical, Gaussian, Prior, StudentT, log_density
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.space import Space
from rectiflow.spaces.torus import Torus
from rectiflow.spaces.zero_mean import ZeroMean
from rectiflow.stochastic_interpolant import StochasticInterpolant

STD = (0.5, 2.0, 1.3, 0.8, 1.0, 0.6, 1.7, 0.9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(d: int, path: Linear | Trigonometric | None = None) -> tuple[GaussianFlow, MultivariateNormal]:
    basis = torch.linalg.qr(torch.randn(d, d, generator=seeded(1))).Q
    covariance = basis @ torch.diag(torch.tensor(STD[:d]).square()) @ basis.mT
    covariance = (covariance + covariance.mT) / 2
    mean = torch.randn(d, generator=seeded(2))
    return GaussianFlow(mean, covariance, path), MultivariateNormal(mean, covariance)


def shaped(target: GaussianFlow, shape: tuple[int, ...]) -> Flow:
    """The same flow for states (B, *shape)."""
    return Flow(lambda x, t: target.velocity(x.flatten(1), t).reshape(x.shape), interpolant=target.interpolant)


@pytest.mark.parametrize("shape", [(8,), (2, 2, 2), (4, 1, 2)])
@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_gaussian_log_probability_of_any_shape(shape: tuple[int, ...], path: Linear | Trigonometric) -> None:
    target, law = gaussian(8, path)
    x1 = target.sample(16, seeded(3))
    chunk = 3 if len(shape) > 1 else 8  # eight rows in blocks of 3, 3 and 2, or at once
    measured = log_prob(shaped(target, shape), x1.reshape(-1, *shape), steps=60, chunk=chunk)
    torch.testing.assert_close(measured, law.log_prob(x1), atol=1e-6, rtol=0)


def test_forty_steps_reach_a_millionth() -> None:
    covariance = torch.diag(torch.tensor([0.5, 2.0]))
    target = GaussianFlow(torch.tensor([1.0, -2.0]), covariance)
    x1 = target.sample(64, seeded(3))
    law = MultivariateNormal(target.mean, covariance)
    torch.testing.assert_close(log_prob(target.flow(), x1, steps=40), law.log_prob(x1), atol=1e-6, rtol=0)


ORDERS = {"euler": (1, 0.15), "midpoint": (2, 0.2), "heun": (2, 0.2), "rk4": (4, 0.3)}


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_order_of_the_log_probability(method: str) -> None:
    target, law = gaussian(3, Trigonometric())
    x1 = target.sample(16, seeded(4))
    truth = law.log_prob(x1)
    errors = [(log_prob(target.flow(), x1, steps=n, method=method) - truth).square().mean().sqrt() for n in (40, 80)]
    order, tolerance = ORDERS[method]
    assert abs(math.log2(float(errors[0] / errors[1])) - order) < tolerance


def test_mixture_density() -> None:
    weights, means = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    covariances = 0.25 * torch.eye(2).expand(3, 2, 2)
    target = MixtureFlow(weights, means, covariances)
    law = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
    x1 = target.sample(32, seeded(5))
    torch.testing.assert_close(log_prob(target.flow(), x1, steps=80), law.log_prob(x1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score"])
def test_predictions_of_any_kind(predicts: Any) -> None:
    target, law = gaussian(3)
    x1 = target.sample(8, seeded(6))
    flow = Flow(getattr(target, predicts), predicts=predicts)
    # the conversions keep 1e-3 away from their singular end, which limits what is reached
    torch.testing.assert_close(log_prob(flow, x1), law.log_prob(x1), atol=0.02, rtol=0)


def nonlinear(d: int, seed: int = 7) -> nn.Module:
    g = seeded(seed)
    net = nn.Sequential(nn.Linear(d + 1, 16), nn.Tanh(), nn.Linear(16, d))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5, generator=g)
    return net


def as_flow(net: nn.Module, **options: Any) -> Flow:
    return Flow(lambda x, t: net(torch.cat([x, t[:, None]], 1)), **options)


@pytest.mark.parametrize("method", METHODS)
def test_forward_equals_backward(method: str) -> None:
    """The fixed-step methods agree to their own error, RK4 to 1e-8."""
    flow = as_flow(nonlinear(3))
    steps, tolerance = {"rk4": (80, 1e-8), "euler": (200, 5e-2)}.get(method, (100, 2e-3))
    x1, forward = sample_with_log_prob(flow, (6, 3), steps=steps, method=method, generator=seeded())
    torch.testing.assert_close(log_prob(flow, x1, steps=steps, method=method), forward, atol=tolerance, rtol=0)
    torch.testing.assert_close(x1, sample(flow, (6, 3), steps=steps, method=method, generator=seeded()))


@pytest.mark.parametrize("divergence", ["hutchinson", "hutch++"])
def test_estimates_scatter_around_the_exact_value(divergence: str) -> None:
    """One probe a sample: 2000 copies of one point are 2000 estimates of its log-probability."""
    n, flow = 2000, as_flow(nonlinear(6))
    x1 = torch.randn(1, 6, generator=seeded(8))
    exact = float(log_prob(flow, x1, steps=10))
    estimates = log_prob(flow, x1.expand(n, -1), steps=10, divergence=divergence, generator=seeded(9))
    assert float(estimates.std()) > 1e-3
    assert abs(float(estimates.mean()) - exact) < 4 * float(estimates.std()) / math.sqrt(n)


def test_probes_are_drawn_once_a_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    original = torch.randint

    def counted(*arguments: Any, **options: Any) -> Tensor:
        draws.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "randint", counted)
    flow, x1 = as_flow(nonlinear(3)), torch.zeros(2, 3)
    log_prob(flow, x1, steps=7, divergence="hutchinson", generator=seeded())
    assert len(draws) == 1


def test_a_fixed_probe_leaves_the_estimate_smooth_in_the_steps() -> None:
    """RK4 keeps order 4 under Hutchinson: with a probe redrawn a stage the difference would not fall at all."""
    target, _ = gaussian(3, Trigonometric())
    x1 = target.sample(16, seeded(10))
    values = [
        log_prob(target.flow(), x1, steps=n, divergence="hutchinson", generator=seeded(11)) for n in (40, 80, 160)
    ]
    order = math.log2(float((values[0] - values[1]).norm() / (values[1] - values[2]).norm()))
    assert 3.7 < order < 4.3


def test_gradient_with_respect_to_the_data_is_the_score() -> None:
    target, _ = gaussian(3)
    x1 = target.sample(8, seeded(12)).requires_grad_()
    (score,) = torch.autograd.grad(log_prob(target.flow(), x1, steps=80, differentiable=True).sum(), x1)
    expected = target.score(x1.detach(), torch.ones(8))
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_gradient_of_the_nll_equals_finite_differences(divergence: str) -> None:
    net = nonlinear(3)
    x1 = torch.randn(4, 3, generator=seeded(13))

    def nll(differentiable: bool) -> Tensor:
        return -log_prob(
            as_flow(net), x1, steps=5, divergence=divergence, generator=seeded(14), differentiable=differentiable
        ).mean()

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(nll(True), parameters, allow_unused=True)
    assert not nll(False).requires_grad
    step = 1e-5
    for parameter, gradient in zip(parameters[:-1], gradients[:-1], strict=True):
        assert gradient is not None
        entry = int(gradient.abs().argmax())
        flat = parameter.detach().reshape(-1)
        value = float(flat[entry])
        sides = []
        for sign in (1, -1):
            flat[entry] = value + sign * step
            sides.append(float(nll(False)))
        flat[entry] = value
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(float(gradient.reshape(-1)[entry]), rel=1e-5)


def test_products_are_joined_vectors() -> None:
    """A field that mixes its components has the density of the same field on the joined vector."""
    net = nonlinear(3)

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        v = net(torch.cat([x["a"], x["b"].flatten(1), t[:, None]], 1))
        return {"b": v[:, 1:].reshape(x["b"].shape), "a": v[:, :1]}

    x1 = torch.randn(5, 3, generator=seeded(15))
    flow = Flow(model, space=Product(b=Euclidean(), a=Euclidean()))
    parted = {"a": x1[:, :1], "b": x1[:, 1:].reshape(5, 2, 1)}
    torch.testing.assert_close(log_prob(flow, parted, steps=9), log_prob(as_flow(net), x1, steps=9))
    drawn, forward = sample_with_log_prob(flow, {"a": (5, 1), "b": (5, 2, 1)}, steps=40, generator=seeded(16))
    torch.testing.assert_close(log_prob(flow, drawn, steps=40), forward, atol=1e-7, rtol=0)


def shifted(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    """x1 = shift + (1 + shift / 4) x0 along straight lines; density N(shift, (1 + shift / 4)^2)."""
    scale = 1 + shift / 4
    t = t[:, None]
    return shift + (scale - 1) * (x - t * shift) / (1 + t * (scale - 1))


def test_conditions_reach_the_model() -> None:
    shift = torch.tensor([[-1.0], [0.5], [2.0]])
    x1 = torch.tensor([[0.3], [0.7], [-1.0]])
    measured = log_prob(Flow(shifted), x1, cond={"shift": shift})
    torch.testing.assert_close(measured, Normal(shift, 1 + shift / 4).log_prob(x1)[:, 0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_guidance_has_the_density_of_the_guided_field(divergence: str) -> None:
    net = nonlinear(3)

    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return net(torch.cat([x, t[:, None]], 1)) * label[:, None]

    guided = Flow(model, null={"label": 0.5})
    label = torch.tensor([1.0, 2.0])
    x1 = torch.randn(2, 3, generator=seeded(17))
    options: dict[str, Any] = {"steps": 6, "divergence": divergence}
    measured = log_prob(
        guided, x1, cond={"label": label}, guidance=Guidance(3.0, (0.0, 0.6)), generator=seeded(18), **options
    )

    def by_hand(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return model(x, t, 0.5 + (3.0 if float(t[0]) <= 0.6 else 1.0) * (label - 0.5))

    torch.testing.assert_close(
        measured, log_prob(Flow(by_hand), x1, cond={"label": label}, generator=seeded(18), **options)
    )


class Wide:
    """x0 ~ N(centre, 4), with its density."""

    def __call__(self, shape: Any, *, cond: dict[str, Tensor], generator: Any, device: Any, dtype: Any) -> Tensor:
        return cond["centre"] + 2 * torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def log_density(self, x0: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        assert cond is not None
        return Normal(cond["centre"], 2.0).log_prob(x0).sum(1)


def test_a_source_brings_its_own_density() -> None:
    """v = -x: x1 = x0 / e, so that x1 ~ N(centre / e, (2 / e)^2)."""
    cond = {"centre": torch.tensor([[1.0], [-1.0]])}
    flow = Flow(lambda x, t, centre: -x, source=Wide())
    x1 = torch.tensor([[0.2], [0.4]])
    expected = Normal(cond["centre"] / math.e, 2 / math.e).log_prob(x1)[:, 0]
    torch.testing.assert_close(log_prob(flow, x1, cond=cond), expected, atol=1e-8, rtol=0)
    drawn, forward = sample_with_log_prob(flow, (2, 1), cond=cond, generator=seeded(19))
    torch.testing.assert_close(forward, Normal(cond["centre"] / math.e, 2 / math.e).log_prob(drawn)[:, 0])


def test_densities_of_the_library_s_sources() -> None:
    x = torch.randn(5, 2, 2, generator=seeded(22))
    centre, scale = torch.randn(5, 2, 2, generator=seeded(23)), torch.tensor([[0.5], [2.0]])
    expected = Normal(centre, scale.expand(2, 2)).log_prob(x).sum((1, 2))
    torch.testing.assert_close(log_density(Gaussian("centre", scale), x, {"centre": centre}), expected)
    root = torch.randn(4, 4, generator=seeded(24))
    covariance = root @ root.mT + torch.eye(4)
    law = MultivariateNormal(torch.full((4,), 0.3), covariance)
    torch.testing.assert_close(log_density(Gaussian(0.3, covariance=covariance), x), law.log_prob(x.flatten(1)))
    student = multivariate_t(torch.zeros(4), 1.7**2 * torch.eye(4), df=3.5)
    measured = log_density(StudentT(3.5, 1.7), x)
    torch.testing.assert_close(measured, torch.from_numpy(student.logpdf(x.flatten(1).numpy())))
    both = Components(a=StudentT(3.5, 1.7), b=Prior(Euclidean()))
    torch.testing.assert_close(log_density(both, {"a": x, "b": x}), measured + Normal(0.0, 1.0).log_prob(x).sum((1, 2)))
    with pytest.raises(ConversionError, match="density of the source"):
        log_density(Components(a=Empirical(x)), {"a": x})


def test_flat_spaces_have_densities_too() -> None:
    """On a torus x1 = x0 + v wraps and keeps the uniform law; without a mean the normal law lives on fewer dimensions."""
    x = torch.rand(3, 2, generator=seeded(25))
    flow = Flow(lambda x, t: torch.full_like(x, 0.7), space=Torus(period=2.0))
    torch.testing.assert_close(log_prob(flow, x, steps=3), torch.full((3,), -2 * math.log(2.0)))
    centred = torch.randn(3, 4, 2, generator=seeded(26))
    centred = centred - centred.mean(1, keepdim=True)
    flow = Flow(lambda x, t: x, space=ZeroMean())
    x0 = centred / math.e
    expected = -x0.square().sum((1, 2)) / 2 - 3 * math.log(2 * math.pi) - 6
    torch.testing.assert_close(log_prob(flow, centred), expected)
    latent = Flow(
        lambda x, t: x + 1, StochasticInterpolant(), space=ZeroMean()
    )  # whose velocity nothing centres before
    torch.testing.assert_close(log_prob(latent, centred), expected)


def test_densities_that_do_not_exist_are_refused_before_the_solve() -> None:
    def never(x: Any, t: Tensor, **_: Tensor) -> Any:
        raise RuntimeError("the network was evaluated")

    def source(shape: Any, **_: Any) -> Tensor:
        return torch.zeros(shape)

    class Curved(Euclidean):
        log_prior = Space.log_prior  # type: ignore[assignment]

    x1 = torch.zeros(2, 3)
    with pytest.raises(ConversionError, match=r"density of the source.*log_density"):
        log_prob(Flow(never, source=source), x1)
    with pytest.raises(ConversionError, match=r"prior of .*Curved.*flat space"):
        log_prob(Flow(never, space=Curved()), x1)
    with pytest.raises(ConversionError, match=r"Curved"):
        log_prob(Flow(never, space=Product(a=Curved(), b=Euclidean())), {"a": x1, "b": x1})
    with pytest.raises(ConversionError, match="self-conditioned"):
        log_prob(Flow(never, self_conditioning=True), x1)
    with pytest.raises(ConfigError, match=r"'dopri'; allowed: euler, heun, midpoint, rf_solver, rk4"):
        log_prob(Flow(never), x1, method="dopri")
    with pytest.raises(ConfigError, match="no generator"):
        sample_with_log_prob(Flow(never), (2, 3), divergence="hutchinson")


def test_a_solve_that_explodes_is_named() -> None:
    with pytest.raises(NonFiniteError, match="step 2 of 4"):
        log_prob(Flow(lambda x, t: x / (t[:, None] - 0.75)), torch.ones(1, 1), steps=4, method="euler")


def test_single_precision_is_kept_and_half_precision_sums_in_single() -> None:
    target, law = gaussian(8)
    single = GaussianFlow(target.mean.float(), target.covariance.float())
    x1 = target.sample(8, seeded(20))
    measured = log_prob(single.flow(), x1.float(), steps=40)
    assert measured.dtype == torch.float32
    torch.testing.assert_close(measured.double(), law.log_prob(x1), atol=1e-3, rtol=0)
    half = log_prob(Flow(lambda x, t: -x), torch.ones(2, 1000, dtype=torch.bfloat16), steps=1, method="euler")
    assert half.dtype == torch.float32
    # one Euler step back from 1: x0 = 2, divergence -1000
    expected = -1000 * (4 + math.log(2 * math.pi)) / 2 + 1000
    torch.testing.assert_close(half, torch.full((2,), expected, dtype=torch.float32))


def test_bits_per_dimension_of_a_gaussian_on_a_grid_of_pixels() -> None:
    """Uniform noise of width w adds w^2 / 12 to the mean square of what a Gaussian codes."""
    width, mean, std, n = 2 / 255, 0.1, 0.02, 4000
    pixels = torch.tensor([120, 140, 150, 128]).reshape(1, 1, 2, 2)
    image = pixels / 127.5 - 1
    target = GaussianFlow(torch.full((4,), mean), std**2 * torch.eye(4))
    noisy = dequantise(image.expand(n, -1, -1, -1), width, seeded(21))
    assert float((noisy - image).abs().max()) <= width / 2
    flow = shaped(target, (1, 2, 2))
    bits = bits_per_dimension(log_prob(flow, noisy[:50], steps=200), 4, width)
    exact = MultivariateNormal(target.mean, target.covariance)
    closed = bits_per_dimension(exact.log_prob(noisy.flatten(1)), 4, width)
    torch.testing.assert_close(bits, closed[:50], atol=5e-4, rtol=0)
    square = float((image - mean).square().mean()) + width**2 / 12
    expected = square / (2 * std**2) / math.log(2) + math.log2(std * math.sqrt(2 * math.pi) / width)
    assert abs(float(closed.mean()) - expected) < 4 * float(closed.std()) / math.sqrt(n)


def test_a_bit_is_a_halving() -> None:
    assert float(bits_per_dimension(torch.tensor([-3 * math.log(2)]), 3, 1.0)) == pytest.approx(1)
    assert float(bits_per_dimension(torch.tensor([0.0]), 3, 1 / 256)) == pytest.approx(8)
    with pytest.raises(ConfigError, match="width is 0"):
        bits_per_dimension(torch.zeros(1), 1, 0)
    with pytest.raises(ConfigError, match="width is -1"):
        dequantise(torch.zeros(1), -1, seeded())
    with pytest.raises(ConfigError, match="dimensions is 0"):
        bits_per_dimension(torch.zeros(1), 0, 1.0)
