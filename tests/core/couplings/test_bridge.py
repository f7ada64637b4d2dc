"""Schroedinger bridge: its plan against closed forms, its paths against autograd of the log-density of Brownian bridges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from rectiflow.analytic_couplings import ScalarBridge
from rectiflow.couplings import EntropicOT, SchroedingerBridge, sinkhorn
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.stochastic_interpolant import BrownianLatent, StochasticInterpolant


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ends(count: int = 6, shape: tuple[int, ...] = (3,)) -> tuple[Tensor, Tensor]:
    g = seeded()
    return torch.randn(count, *shape, generator=g), 2 + torch.randn(count, *shape, generator=g)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_plan_on_a_grid_has_the_covariance_of_the_scalar_bridge(sigma: float) -> None:
    closed = ScalarBridge(0.5, 1.2, -1.0, 0.8, sigma)
    x, y = torch.linspace(-6.5, 7.5, 211), torch.linspace(-6.0, 4.0, 181)
    a, b = Normal(0.5, 1.2).log_prob(x).softmax(0), Normal(-1.0, 0.8).log_prob(y).softmax(0)
    plan = sinkhorn((x[:, None] - y) ** 2, 2 * sigma**2, source_weights=a, data_weights=b).matrix
    covariance = float((plan * (x - 0.5)[:, None] * (y + 1.0)).sum())
    assert covariance == pytest.approx(closed.covariance, abs=1e-3)


def test_coupling_is_entropic_transport_with_twice_sigma_squared() -> None:
    x0, x1 = ends(32, (2,))
    bridge = SchroedingerBridge(0.7)
    torch.testing.assert_close(bridge.plan(x0, x1).matrix, sinkhorn(torch.cdist(x0, x1).square(), 0.98).matrix)
    coupled = bridge(x0, x1, generator=seeded())
    assert torch.equal(coupled.index, EntropicOT(0.98, relative=False)(x0, x1, generator=seeded()).index)
    assert coupled.x0 is x0
    assert not bridge.independent


def test_drawn_ends_have_the_covariance_of_the_scalar_bridge() -> None:
    g, pairs = seeded(1), []
    for _ in range(20):
        x0, x1 = torch.randn(256, 1, generator=g), 1.5 * torch.randn(256, 1, generator=g)
        coupled = SchroedingerBridge(1.0)(x0, x1, generator=g)
        pairs.append(torch.cat([coupled.x0, coupled.x1], 1))
    joint = torch.cat(pairs)
    expected = ScalarBridge(0, 1, 0, 1.5, 1.0).covariance
    error = math.sqrt((1.5**2 + expected**2) / len(joint))
    assert float(joint.T.cov()[0, 1]) == pytest.approx(expected, abs=4.5 * error)


def test_classes_are_kept() -> None:
    x0, x1 = ends(32, (2,))
    label = torch.arange(32) % 2
    coupled = SchroedingerBridge()(x0, x1, {"label": label}, generator=seeded())
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["label"], label)


def drawn(sigma: float, kind: str) -> Draw:
    """Draws of SB-CFM: ends from the bridge's plan, the path with its latent noise."""
    flow = Flow(lambda x, t: x, interpolant=StochasticInterpolant(latent=BrownianLatent(sigma**2)), predicts=kind)
    _, x1 = ends(8)
    return flow.draw(x1, coupling=SchroedingerBridge(sigma), generator=seeded(4))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_the_score_target_is_the_gradient_of_the_bridges_log_density(sigma: float) -> None:
    draw = drawn(sigma, "score")
    t = draw.t[:, None]
    x = draw.xt.clone().requires_grad_()
    law = Normal((1 - t) * draw.x0 + t * draw.x1, (sigma * (t * (1 - t)).sqrt()).expand_as(x))
    (expected,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(draw.target, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_the_velocity_target_solves_the_continuity_equation_of_the_bridge(sigma: float) -> None:
    """d log p / dt + v . grad log p + div v = 0, with v affine in x: v = x1 - x0 + k(t) (x - mean), div v = d k."""
    draw = drawn(sigma, "velocity")
    t = draw.t.clone().requires_grad_()
    x = draw.xt.clone().requires_grad_()
    mean = (1 - t[:, None]) * draw.x0 + t[:, None] * draw.x1
    log_density = Normal(mean, (sigma * (t * (1 - t)).sqrt())[:, None].expand_as(x)).log_prob(x).sum()
    in_time, in_space = torch.autograd.grad(log_density, (t, x))
    offset = (draw.xt - mean).detach()
    rate = ((draw.target - (draw.x1 - draw.x0)) / offset)[:, 0]
    left = in_time + (draw.target * in_space).sum(1) + 3 * rate
    torch.testing.assert_close(left / (1 + in_time.abs()), torch.zeros_like(left), rtol=0, atol=1e-8)


def test_bad_numbers_are_named() -> None:
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"sigma.*{value}.*positive and finite"):
            SchroedingerBridge(value)
