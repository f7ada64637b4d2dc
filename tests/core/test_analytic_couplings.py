"""Closed forms of transport and bridges: against their defining properties, quadrature and minibatch couplings."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from rectiflow.analytic_couplings import GaussianTransport, ScalarBridge
from rectiflow.couplings import EntropicOT, MinibatchOT
from rectiflow.diagnostics import transport_cost
from rectiflow.errors import ConfigError

MEAN0, MEAN1 = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, -0.5]).double()
COV0, COV1 = torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double(), torch.tensor([[2.0, -0.6], [-0.6, 0.4]]).double()


def transport() -> GaussianTransport:
    return GaussianTransport(MEAN0, COV0, MEAN1, COV1)


def test_the_map_pushes_one_gaussian_to_the_other_along_a_convex_potential() -> None:
    closed = transport()
    assert not torch.allclose(COV0 @ COV1, COV1 @ COV0)
    torch.testing.assert_close(closed.matrix @ COV0 @ closed.matrix.mT, COV1)
    torch.testing.assert_close(closed.matrix, closed.matrix.mT)
    assert float(torch.linalg.eigvalsh(closed.matrix).min()) > 0
    torch.testing.assert_close(closed(MEAN0), MEAN1)


def test_the_distance_is_the_cost_of_the_map() -> None:
    closed = transport()
    gap = closed.matrix - torch.eye(2)
    cost = float((gap @ COV0 @ gap.mT).trace() + (MEAN1 - MEAN0).square().sum())
    assert closed.squared_distance == pytest.approx(cost, rel=1e-12)
    line = GaussianTransport(torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([-2.0]), torch.tensor([[9.0]]))
    assert line.squared_distance == pytest.approx(9 + 1)
    torch.testing.assert_close(line(torch.tensor([[3.0]])), torch.tensor([[1.0]]))


def clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x0 = MEAN0 + torch.randn(count, 2, generator=g) @ torch.linalg.cholesky(COV0).mT
    return x0, MEAN1 + torch.randn(count, 2, generator=g) @ torch.linalg.cholesky(COV1).mT


def test_minibatch_costs_approach_it_from_below_the_independent_cost() -> None:
    closed, costs = transport(), []
    independent = float((MEAN0 - MEAN1).square().sum() + COV0.trace() + COV1.trace())
    for size in (8, 64, 512):
        coupled = [MinibatchOT()(*clouds(size, seed)) for seed in range(4096 // size)]
        costs.append(sum(float(transport_cost(c.x0, c.x1)) for c in coupled) / len(coupled))
    assert independent > costs[0] > costs[1] > costs[2]
    assert costs[2] == pytest.approx(closed.squared_distance, rel=0.06)


def test_minibatch_partners_approach_the_map() -> None:
    """Entropic blurring averages over near partners: the mean of the plan's row tends to the map's image."""
    x0, x1 = clouds(512, 3)
    images = 512 * EntropicOT(0.02).plan(x0, x1).matrix @ x1
    assert float((images - transport()(x0)).square().sum(1).mean()) < 0.12
    assert float((x1 - transport()(x0)).square().sum(1).mean()) > 2


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_the_diffusion_of_the_bridge_has_its_covariance(sigma: float) -> None:
    """A linear drift k(t) (x - mean) gives Cov(x0, x1) = std0^2 exp(int k dt): quadrature against the closed form."""
    bridge = ScalarBridge(0.3, 1.2, -1.0, 0.8, sigma)

    def rate(time: float) -> float:
        t, above = torch.tensor(time), bridge.mean(torch.tensor(time)) + 1
        drift = bridge.velocity(above, t) + sigma**2 / 2 * bridge.score(above, t)
        return float(drift - (bridge.mean1 - bridge.mean0))

    assert 1.2**2 * math.exp(quad(rate, 0, 1)[0]) == pytest.approx(bridge.covariance, rel=1e-8)


@pytest.mark.parametrize("sigma", [0.4, 2.5])
def test_the_velocity_moves_mean_and_variance(sigma: float) -> None:
    bridge = ScalarBridge(0.3, 1.2, -1.0, 0.8, sigma)
    t = torch.linspace(0, 1, 9).requires_grad_()
    (growth,) = torch.autograd.grad(bridge.variance(t).sum(), t)
    at = t.detach()
    torch.testing.assert_close(bridge.velocity(bridge.mean(at), at), torch.full((9,), -1.3))
    slope = bridge.velocity(bridge.mean(at) + 1, at) - bridge.velocity(bridge.mean(at), at)
    torch.testing.assert_close(2 * slope * bridge.variance(at), growth)
    torch.testing.assert_close(bridge.variance(torch.tensor([0.0, 1.0])), torch.tensor([1.44, 0.64]))
    torch.testing.assert_close(bridge.score(bridge.mean(at) + 2, at), -2 / bridge.variance(at))


def test_without_noise_the_bridge_is_optimal_transport() -> None:
    assert ScalarBridge(0, 1.2, 1, 0.8, 0).covariance == pytest.approx(1.2 * 0.8)
    assert ScalarBridge(0, 1.2, 1, 0.8, 100).covariance == pytest.approx(0, abs=1e-3)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ConfigError, match=r"smallest eigenvalue.*positive definite"):
        GaussianTransport(MEAN0, torch.zeros(2, 2), MEAN1, COV1)
    with pytest.raises(ConfigError, match=r"0, 1, 1.*above 0"):
        ScalarBridge(0, 0, 0, 1, 1)
