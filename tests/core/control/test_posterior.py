"""Ensembles against exact posteriors, and resampling against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.control import Measurement, effective_size, sample_posterior, steer, systematic
from rectiflow.control.resampling import resample
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric
from rectiflow.sampling import integrate
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3

MEAN, COVARIANCE = torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
A, Y, NOISE = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([[1.5]]).double(), 0.5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact_posterior() -> tuple[Tensor, Tensor, float]:
    """Mean, covariance and log-evidence of y = A x + noise under the prior N(MEAN, COVARIANCE)."""
    precision = torch.linalg.inv(COVARIANCE)
    covariance = torch.linalg.inv(precision + A.mT @ A / NOISE**2)
    mean = covariance @ (precision @ MEAN + A.mT @ Y[0] / NOISE**2)
    total = A @ COVARIANCE @ A.mT + NOISE**2
    density = -((Y[0] - A @ MEAN) ** 2) / (2 * total[0]) - torch.log(2 * math.pi * total[0]) / 2
    return mean, covariance, float(density + math.log(NOISE * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize(
    ("path", "onset", "count", "steps", "tolerance"),
    [(Linear(), 1.0, 20_000, 200, 0.02), (Trigonometric(), 2.0, 5000, 100, 0.06)],
)
def test_a_linear_measurement_of_a_gaussian(
    path: Interpolant, onset: float, count: int, steps: int, tolerance: float
) -> None:
    flow = GaussianFlow(MEAN, COVARIANCE, path).flow()
    measured = Measurement(lambda x: x @ A.mT, Y, NOISE)
    found = sample_posterior(
        flow,
        normal(count, 2),
        measured.potential,
        steps=steps,
        diffusion=0.5,
        onset=onset,
        generator=torch.Generator().manual_seed(1),
    )
    mean, covariance, evidence = exact_posterior()
    weights = found.log_weights.softmax(1)[0]
    deviation = found.x - found.mean()
    torch.testing.assert_close(found.mean()[0], mean, atol=tolerance, rtol=0)
    torch.testing.assert_close((weights[:, None] * deviation).mT @ deviation, covariance, atol=1.5 * tolerance, rtol=0)
    assert float(found.log_evidence) == pytest.approx(evidence, abs=1.5 * tolerance)
    assert found.nfe == steps
    assert float(effective_size(found.log_weights)) > 0.5 * count
    assert int(found.resamplings) <= 2


def test_weights_alone_are_right_without_noise_and_without_resampling() -> None:
    """eps = 0: particles follow the flow, the weights are exp(-mu(x1)) up to the step size, whatever the potential."""
    flow = GaussianFlow(MEAN, COVARIANCE).flow()
    found = sample_posterior(
        flow,
        normal(50, 2),
        lambda x: torch.sin(2 * x[:, 0]) + x[:, 1] ** 2,
        steps=800,
        diffusion=0.0,
        threshold=0.0,
        generator=torch.Generator(),
    )
    expected = -torch.sin(2 * found.x[:, 0]) - found.x[:, 1] ** 2
    torch.testing.assert_close(found.log_weights[0], expected, atol=2e-2, rtol=0)
    assert int(found.resamplings) == 0


def test_two_modes_get_the_weights_that_the_measurement_gives_them() -> None:
    """Prior: modes at -2 and 2 of weights 0.8 and 0.2, and a likelihood that favours the right one e^2 times."""
    flow = MixtureFlow([0.8, 0.2], torch.tensor([[-2.0], [2.0]]), torch.full((2, 1, 1), 0.05)).flow()
    found = sample_posterior(
        flow,
        normal(4000, 1),
        lambda x: -x[:, 0] / 2,
        steps=100,
        generator=torch.Generator().manual_seed(1),
    )
    right = float((found.log_weights.softmax(1)[0] * (found.x[:, 0] > 0)).sum())
    assert right == pytest.approx(0.2 * math.e / (0.2 * math.e + 0.8 / math.e), abs=0.05)


def test_groups_are_ensembles_of_their_own() -> None:
    """Three measurements at once, of one particle a row: each group has its own posterior mean l y / (l + noise^2)."""
    flow = GaussianFlow(torch.zeros(1), torch.eye(1)).flow()
    y = torch.tensor([-1.0, 0.0, 2.0])[:, None]
    measured = Measurement(lambda x: x, y.repeat_interleave(2000, 0), 0.5)
    found = sample_posterior(
        flow,
        normal(6000, 1),
        measured.potential,
        particles=2000,
        steps=100,
        diffusion=0.5,
        generator=torch.Generator().manual_seed(1),
    )
    assert found.log_weights.shape == (3, 2000)
    torch.testing.assert_close(found.mean(), y / 1.25, atol=0.06, rtol=0)


def test_conditions_are_one_row_a_group_and_products_work() -> None:
    space = Product(a=Euclidean(), b=Euclidean())
    one = GaussianFlow(torch.zeros(1), torch.eye(1))

    def model(x: dict[str, Tensor], t: Tensor, centre: Tensor) -> dict[str, Tensor]:
        return {"a": one.velocity(x["a"], t) + centre[:, None], "b": one.velocity(x["b"], t)}

    def score(x: dict[str, Tensor], t: Tensor, centre: Tensor) -> dict[str, Tensor]:
        return {"a": one.score(x["a"] - t[:, None] * centre[:, None], t), "b": one.score(x["b"], t)}

    def shifted(x: dict[str, Tensor], t: Tensor, centre: Tensor) -> dict[str, Tensor]:
        moved = {"a": x["a"] - t[:, None] * centre[:, None], "b": x["b"]}
        return model(moved, t, centre)

    flow = Flow(shifted, space=space, score_model=score)
    x0 = {"a": normal(4000, 1), "b": normal(4000, 1, seed=1)}
    found = sample_posterior(
        flow,
        x0,
        lambda x: x["b"][:, 0].square() / 2,
        particles=2000,
        steps=60,
        cond={"centre": torch.tensor([-3.0, 3.0])},
        generator=torch.Generator().manual_seed(1),
    )
    means = found.mean()
    torch.testing.assert_close(means["a"], torch.tensor([[-3.0], [3.0]]), atol=0.12, rtol=0)
    weights = found.log_weights.softmax(1)
    spread = (weights * found.x["b"].reshape(2, 2000).square()).sum(1)
    torch.testing.assert_close(spread, torch.full((2,), 0.5), atol=0.08, rtol=0)  # half of the prior's variance


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_steering_by_a_linear_reward_tilts_a_gaussian(strength: float) -> None:
    """p exp(strength r . x) of N(m, S) is N(m + strength S r, S)."""
    r = torch.tensor([0.8, 0.6])
    flow = GaussianFlow(MEAN, COVARIANCE).flow()
    found = steer(
        flow,
        normal(20_000, 2),
        lambda x: x @ r,
        strength=strength,
        steps=80,
        diffusion="sigma",
        generator=torch.Generator().manual_seed(2),
    )
    torch.testing.assert_close(found.x.mean(0), MEAN + strength * COVARIANCE @ r, atol=0.06, rtol=0)
    torch.testing.assert_close(found.x.mT.cov(), COVARIANCE, atol=0.08, rtol=0)
    torch.testing.assert_close(found.reward, found.x @ r)
    assert found.nfe == 80 * 20_000
    assert 0 < int(found.survivors) < 20_000


def test_steering_may_start_on_the_way() -> None:
    """From samples of p_0.5, whose estimates differ: their own rewards count, so that the gains add up to that of the data."""
    r = torch.tensor([0.8, 0.6])
    prior = GaussianFlow(MEAN, COVARIANCE)
    halfway = 0.5 * prior.sample(6000, torch.Generator().manual_seed(0)) + 0.5 * normal(6000, 2, seed=1)
    times = torch.linspace(0.5, 1, 41)
    found = steer(prior.flow(), halfway, lambda x: x @ r, times=times, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found.x.mean(0), MEAN + COVARIANCE @ r, atol=0.1, rtol=0)


def test_a_resampled_particle_goes_on_as_its_ancestor_would() -> None:
    """Without noise, and with a reward that leaves one survivor, all end where the flow carries the best of them."""
    prior = GaussianFlow(MEAN, COVARIANCE).flow()
    x, times = normal(6, 2), torch.linspace(0.5, 1, 5)
    found = steer(
        prior,
        x,
        lambda z: z[:, 0],
        strength=1e4,
        diffusion=0.0,
        threshold=1.0,
        times=times,
        generator=torch.Generator(),
    )
    best = prior.data(x, torch.full((6,), 0.5))[:, 0].argmax()
    expected = integrate(prior, x, times=times).x[best]
    torch.testing.assert_close(found.x, expected.expand(6, 2))
    assert found.survivors.tolist() == [1]


def test_steering_by_nothing_is_plain_sampling_without_resampling() -> None:
    flow = GaussianFlow(MEAN, COVARIANCE).flow()
    found = steer(flow, normal(500, 2), lambda x: x[:, 0], strength=0.0, steps=5, generator=torch.Generator())
    assert found.survivors.tolist() == [500]
    assert found.history.shape == (6, 1)
    assert bool((found.history.diff(dim=0) >= 0).all())


def test_effective_size_of_known_weights() -> None:
    log_weights = torch.log(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 1e-30, 1e-30, 1e-30], [3.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(effective_size(log_weights), torch.tensor([4.0, 1.0, 16 / 10]))


def test_systematic_draws_differ_from_their_mean_by_less_than_one_and_are_unbiased() -> None:
    weights = torch.tensor([0.31, 0.02, 0.0, 0.45, 0.22])
    generator = torch.Generator().manual_seed(0)
    drawn = systematic(weights.log().expand(4000, 5), generator)
    counts = torch.nn.functional.one_hot(drawn, 5).sum(1)
    assert bool(((counts - 5 * weights).abs() < 1).all())
    torch.testing.assert_close(counts.double().mean(0), 5 * weights, atol=4 * 0.5 / 4000**0.5, rtol=0)


def test_only_poor_groups_are_resampled_and_rows_stay_in_their_group() -> None:
    log_weights = torch.tensor([[0.0, 0.0, 0.0], [0.0, -50.0, -50.0], [-50.0, -50.0, 0.0]])
    rows, after, poor = resample(log_weights, 0.5, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 1, 2, 3, 3, 3, 8, 8, 8]
    assert poor.tolist() == [False, True, True]
    assert after.tolist() == [[0.0, 0.0, 0.0]] * 3


def test_mistakes_are_named() -> None:
    flow = GaussianFlow(MEAN, COVARIANCE).flow()
    x, g = normal(6, 2), torch.Generator()

    def mu(x: Tensor) -> Tensor:
        return x.sum(1)

    with pytest.raises(ConfigError, match="6 rows do not divide into groups of 4"):
        sample_posterior(flow, x, mu, particles=4, steps=3, generator=g)
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        sample_posterior(flow, x, mu, threshold=1.5, steps=3, generator=g)
    with pytest.raises(ConfigError, match="onset is 0"):
        sample_posterior(flow, x, mu, onset=0, steps=3, generator=g)
    with pytest.raises(ConfigError, match=r"from 0\.5 to 1"):
        sample_posterior(flow, x, mu, times=torch.tensor([0.5, 1.0]), generator=g)
    with pytest.raises(ConfigError, match="SO3"):
        sample_posterior(Flow(lambda x, t: x[..., :3], space=SO3()), normal(6, 4), mu, steps=3, generator=g)
    with pytest.raises(ConversionError):
        sample_posterior(Flow(lambda x, t: x, independent=False), x, mu, steps=3, generator=g)
    with pytest.raises(ConfigError, match=r"reward has shape \(6, 1\)"):
        steer(flow, x, lambda x: x[:, :1], steps=3, generator=g)
