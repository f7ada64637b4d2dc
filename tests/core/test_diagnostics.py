"""Straightness, cost, conservativity, gauge, dimension and timing against the closed forms of Gaussian targets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.diagnostics import (
    conservativity,
    formation_times,
    gauge,
    intrinsic_dimension,
    straightness,
    transport_cost,
)
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric, VariancePreserving
from rectiflow.predictions import PREDICTIONS
from rectiflow.sampling import integrate
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3

STD = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
MEAN = torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64)


def unit_sources() -> Tensor:
    """The eight corners (+-1, +-1, +-1): exactly the second moments of N(0, I), all that a linear flow's cost depends on."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)


def test_straightness_of_the_first_rectified_flow() -> None:
    """S = (2 - pi / 2) sum c_i, whatever the mean."""
    for mean in (MEAN, torch.zeros(3)):
        flow = GaussianFlow(mean, torch.diag(STD.square())).flow()
        measured = float(straightness(flow, unit_sources(), steps=1600))
        assert measured == pytest.approx((2 - math.pi / 2) * float(STD.sum()), rel=0.01)


def test_straightness_from_random_sources() -> None:
    """The estimator as it is used: 20 000 draws and 200 steps are within 1 % as well."""
    flow = GaussianFlow(MEAN, torch.diag(torch.ones(3))).flow()
    x0 = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    assert float(straightness(flow, x0, steps=200)) == pytest.approx((2 - math.pi / 2) * 3, rel=0.01)


def test_reflowed_velocity_is_straight() -> None:
    """x1 = m + c x0, so v(x, t) = m + (c - 1)(x - t m) / (1 + t (c - 1)): S = 0."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return MEAN + (STD - 1) * (x - t * MEAN) / (1 + t * (STD - 1))

    assert float(straightness(Flow(velocity), unit_sources(), steps=50)) < 1e-24


def test_relative_straightness_divides_by_the_squared_displacement() -> None:
    """v = 2 t from 0 in two Euler steps: speeds 0 and 1, displacement 1/2, deviations 1/4 and 1/4, both over 1/4."""
    flow, x0 = Flow(lambda x, t: 2 * t[:, None].expand_as(x)), torch.zeros(1, 3)
    assert float(straightness(flow, x0, steps=2)) == pytest.approx(3 * 0.25)
    assert float(straightness(flow, x0, steps=2, relative=True)) == pytest.approx(1.0)


def test_straightness_follows_conditions_guidance_and_products() -> None:
    def model(x: dict[str, Tensor], t: Tensor, label: Tensor) -> dict[str, Tensor]:
        speed = label[:, None] * t[:, None]
        return {"a": speed.expand_as(x["a"]), "b": 2 * speed.expand_as(x["b"])}

    flow = Flow(model, space=Product(a=Euclidean(), b=Euclidean()), null={"label": 0.0})
    x0 = {"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)}
    cond = {"label": torch.tensor([1.0, 3.0])}
    # speeds 0 and l / 2, displacement l / 4: deviation l^2 / 16, times 1 + 4 over the components, mean of l^2 = 5
    assert float(straightness(flow, x0, steps=2, cond=cond)) == pytest.approx(5 * 5 / 16)
    assert float(straightness(flow, x0, steps=2, cond=cond, guidance=2.0)) == pytest.approx(4 * 5 * 5 / 16)


def test_transport_cost_before_and_after_reflow() -> None:
    """Independent: |m|^2 + sum (1 + c^2). Reflowed, x1 = m + c x0: |m|^2 + sum (c - 1)^2."""
    n, g = 200_000, torch.Generator().manual_seed(0)
    x0, other = torch.randn(2, n, 3, generator=g)
    size = float(MEAN.square().sum())
    for x1, expected in ((MEAN + STD * other, (1 + STD.square()).sum()), (MEAN + STD * x0, (STD - 1).square().sum())):
        cost = (x1 - x0).square().sum(1)
        standard_error = float(cost.std()) / math.sqrt(n)
        assert abs(float(transport_cost(x0, x1)) - size - float(expected)) < 4 * standard_error


def test_transport_cost_sums_entries_and_averages_samples() -> None:
    x0, x1 = torch.zeros(2, 2, 2), torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]])
    assert float(transport_cost(x0, x1)) == 4.0


VARIANCES = torch.tensor([0.5, 2.0], dtype=torch.float64)
TURN = torch.tensor([[0.0, -3.0], [3.0, 0.0]], dtype=torch.float64)


def spread(t: Tensor) -> Tensor:
    """Variances (B, 2) of x_t on the linear path."""
    return (1 - t[:, None]).square() + t[:, None].square() * VARIANCES


def turned() -> Flow:
    """The flow to N(0, diag(0.5, 2)) plus the rotation A S_t^-1 x: same marginals, another map."""
    target = GaussianFlow(torch.zeros(2), torch.diag(VARIANCES))
    return Flow(lambda x, t: target.velocity(x, t) + x / spread(t) @ TURN.mT)


def states(count: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("of", PREDICTIONS)
@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_exact_fields_are_gradients(of: Any, path: Linear | Trigonometric) -> None:
    basis = torch.linalg.qr(states(3, 3)).Q
    covariance = basis @ torch.diag(STD.square()) @ basis.mT
    gaussian = GaussianFlow(MEAN, (covariance + covariance.mT) / 2, path)
    mixture = MixtureFlow([0.6, 0.4], torch.stack([MEAN, -MEAN]) / 2, torch.stack([covariance, torch.eye(3)]), path)
    x, t = states(8, 3, seed=1), torch.linspace(0.05, 0.95, 8)
    for target in (gaussian, mixture):
        index = conservativity(target.flow(), x, t, of=of)
        assert index.shape == (8,)
        assert float(index.max()) < 1e-10


def test_conservativity_of_a_turned_gaussian() -> None:
    """J = diag(r) + A S^-1, r = (t l - (1 - t)) / S; the index is 1.82 at t = 0.6 and does not see the marginals."""
    t = torch.tensor([0.2, 0.6, 0.9])
    s = spread(t)
    rate = (t[:, None] * VARIANCES - (1 - t[:, None])) / s
    upper, lower = -3 / s[:, 1], 3 / s[:, 0]
    expected = math.sqrt(2) * (lower - upper) / (rate.square().sum(1) + upper.square() + lower.square()).sqrt()
    measured = conservativity(turned(), states(3), t, chunk=1)
    torch.testing.assert_close(measured, expected)
    assert float(measured[1]) == pytest.approx(1.82, abs=0.005)


def test_conservativity_of_pure_rotations_potentials_and_constants() -> None:
    x, t = states(4), torch.full((4,), 0.5)
    torch.testing.assert_close(conservativity(Flow(lambda x, t: x @ TURN), x, t), torch.full((4,), 2.0))
    potential = Flow(lambda x, t: torch.stack([x[:, 0] * x[:, 1].square(), x[:, 0].square() * x[:, 1]], 1))
    assert float(conservativity(potential, x, t).max()) < 1e-14
    assert conservativity(Flow(lambda x, t: torch.ones_like(x)), x, t).tolist() == [0.0] * 4
    coupled = Flow(lambda x, t: x, independent=False)
    with pytest.raises(ConversionError, match="coupled"):
        conservativity(coupled, x, t, of="score")
    with pytest.raises(ConfigError, match="'speed' is unknown"):
        conservativity(coupled, x, t, of="speed")  # type: ignore[arg-type]


def test_a_turned_gaussian_has_the_same_covariance_but_another_map() -> None:
    n = 20_000
    x0 = states(n, seed=2)
    end = integrate(turned(), x0, steps=60, method="rk4").x
    plain = integrate(GaussianFlow(torch.zeros(2), torch.diag(VARIANCES)).flow(), x0, steps=60, method="rk4").x
    torch.testing.assert_close(torch.cov(end.T), torch.diag(VARIANCES), atol=4 * 2 * math.sqrt(2 / n), rtol=0)
    # given what the sources' own covariance happens to be, the two ends agree far closer
    torch.testing.assert_close(torch.cov(end.T).diagonal(), torch.cov(plain.T).diagonal(), rtol=0.02, atol=0)
    assert float((end - plain).square().sum(1).mean()) > 1


@pytest.mark.parametrize("time", [0.0, 0.4, 0.9])
def test_gauge_recovers_the_rotation(time: float) -> None:
    """Energy of the turn: tr(A S^-1 A^T); of the rest: sum r_i^2 S_i."""
    n = 40_000
    t = torch.full((n,), time)
    s = spread(t[:1])[0]
    x = states(n, seed=3) * s.sqrt()
    found = gauge(turned(), x, t)
    torch.testing.assert_close(found.rotation, -found.rotation.mT)
    torch.testing.assert_close(found.rotation, TURN, rtol=0.05, atol=0.05)
    rate = (time * VARIANCES - (1 - time)) / s
    turning, needed = 9 * float((1 / s).sum()), float((rate.square() * s).sum())
    assert float(found.share) == pytest.approx(turning / (turning + needed), rel=0.02)
    none = gauge(GaussianFlow(MEAN[:2], torch.diag(VARIANCES)).flow(), x + time * MEAN[:2], t)
    assert float(none.share) < 1e-3


def test_a_gradient_that_does_not_commute_with_the_covariance_is_no_gauge() -> None:
    """v = M x with symmetric M: B S is not symmetric, and yet nothing turns."""
    matrix = torch.tensor([[1.0, 2.0], [2.0, -0.5]])
    x = states(500, seed=4) * VARIANCES.sqrt()
    t = torch.zeros(500)
    assert float(gauge(Flow(lambda x, t: x @ matrix), x, t).share) < 1e-20
    found = gauge(Flow(lambda x, t: x @ TURN.mT), x, t)
    # a pure turn x -> A' x changes the covariance unless S is isotropic; its gauge part has no symmetric motion left
    s = torch.cov(x.T, correction=0)
    conservative = TURN - found.rotation @ torch.linalg.inv(s)
    torch.testing.assert_close(conservative, conservative.mT)


def test_gauge_needs_samples_that_span() -> None:
    with pytest.raises(ConfigError, match="2 samples span less than their 3 dimensions"):
        gauge(Flow(lambda x, t: x), states(2, 3), torch.zeros(2))


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_intrinsic_dimension_of_a_plane(predicts: Any) -> None:
    """k = 3 in R^10: k / (1 + ((1 - t) / t)^2) for unit variances."""
    basis = torch.linalg.qr(states(10, 3, seed=5)).Q
    target = GaussianFlow(torch.zeros(10), basis @ basis.mT)
    t = torch.tensor([0.5, 0.9, 0.99])
    measured = intrinsic_dimension(Flow(getattr(target, predicts), predicts=predicts), states(3, 10), t)
    torch.testing.assert_close(measured, torch.tensor([1.5, 2.9634146, 2.9996939]), atol=1e-6, rtol=0)
    assert abs(float(measured[2]) - 3) < 0.01


def test_intrinsic_dimension_by_probes_of_images_with_conditions() -> None:
    """A constant of the condition's choosing as the data estimate's slope: a times the trace 12 c."""
    flow = Flow(lambda x, t, c: c[:, None, None, None] * x, predicts="data", interpolant=Trigonometric())
    x, t, c = torch.ones(4, 3, 2, 2), torch.full((4,), 1 / 3), torch.tensor([1.0, 2.0, 3.0, 4.0])
    generator = torch.Generator().manual_seed(0)
    for divergence, probes in (("exact", 1), ("hutchinson", 1), ("hutch++", 12)):  # Rademacher is exact on c I
        measured = intrinsic_dimension(
            flow, x, t, divergence=divergence, probes=probes, generator=generator, cond={"c": c}
        )
        torch.testing.assert_close(measured, 12 * c / 2)  # sin(pi / 6) = 1 / 2
    assert not measured.requires_grad


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VariancePreserving()])
def test_directions_form_at_their_times(path: Interpolant) -> None:
    """Along a solved trajectory the data estimate reaches half of its end in each direction at the predicted time."""
    variances = torch.tensor([9.0, 1.0, 0.01])
    target = GaussianFlow(torch.zeros(3), torch.diag(variances), path)
    times = formation_times(variances, path)
    x0 = torch.ones(1, 3)
    for direction in range(3):
        until = float(times[direction])
        middle = integrate(target.flow(), x0, times=torch.linspace(0, until, 201), method="rk4").x
        end = target.flow_map(x0, torch.zeros(1), torch.ones(1))
        formed = target.data(middle, torch.full((1,), until))[0, direction] / end[0, direction]
        assert float(formed) == pytest.approx(0.5, abs=1e-4)


def test_outlines_come_first() -> None:
    variances = torch.tensor([100.0, 1 / 3, 1e-4, 0.0])
    times = formation_times(variances)
    expected = 1 / (1 + (3 * variances).sqrt())
    torch.testing.assert_close(times, expected)
    assert float(times[1]) == pytest.approx(0.5)
    assert float(times[3]) == 1.0
    later = formation_times(variances[:3], fraction=0.9)
    assert bool((later > times[:3]).all())
    torch.testing.assert_close(later, 1 / (1 + (variances[:3] * 0.19).sqrt() / 0.9))
    with pytest.raises(ConfigError, match="fraction is 1"):
        formation_times(variances, fraction=1)
    with pytest.raises(ConfigError, match="-2; allowed: at least 0"):
        formation_times(torch.tensor([1.0, -2.0]))


def test_geodesic_flow_on_rotations_is_straight_and_a_wobbling_one_is_not() -> None:
    space = SO3()
    x0 = space.sample_prior((200, 4), torch.Generator().manual_seed(0))
    body = torch.tensor([0.3, -0.4, 1.2])  # a constant body velocity of length 1.3

    def turning(x: Tensor, t: Tensor) -> Tensor:
        return body.expand(len(x), 3)

    def wobbling(x: Tensor, t: Tensor) -> Tensor:
        # The same turn at rate 1 + cos(2 pi t): ends where `turning` does, with E|v - mean v|^2 = |body|^2 / 2.
        return (1 + torch.cos(2 * torch.pi * t))[:, None] * body

    assert float(straightness(Flow(turning, space=space), x0)) < 1e-20
    steady = float(straightness(Flow(wobbling, space=space), x0, steps=400))
    assert steady == pytest.approx(float(body.square().sum()) / 2, rel=1e-6)
    relative = straightness(Flow(wobbling, space=space), x0, steps=400, relative=True)
    assert float(relative) == pytest.approx(0.5, rel=1e-6)
