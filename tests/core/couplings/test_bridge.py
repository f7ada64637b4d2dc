"""Schroedinger bridge: its plan and paths against closed forms, autograd and the continuity of the flow of each path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from rectiflow.analytic_couplings import ScalarBridge
from rectiflow.couplings import BrownianBridge, EntropicOT, SchroedingerBridge, sinkhorn
from rectiflow.errors import ConfigError


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


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_score_is_the_gradient_of_the_log_density(sigma: float) -> None:
    x0, x1 = ends()
    t = torch.linspace(0.01, 0.99, 6)
    x = torch.randn(6, 3, generator=seeded(2)).requires_grad_()
    mean = (1 - t[:, None]) * x0 + t[:, None] * x1
    density = Normal(mean, sigma * (t * (1 - t)).sqrt()[:, None].expand(6, 3)).log_prob(x).sum()
    (expected,) = torch.autograd.grad(density, x)
    torch.testing.assert_close(BrownianBridge(sigma).score(x.detach(), x0, x1, t), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_velocity_carries_every_quantile_of_the_bridge(sigma: float) -> None:
    """In the probability flow of a Gaussian path mean(t) + std(t) z, each z stays: its time derivative is the velocity."""
    x0, x1 = ends()
    z = torch.randn(6, 3, generator=seeded(2))
    t = torch.linspace(0.02, 0.97, 6).requires_grad_()
    column = t[:, None]
    point = (1 - column) * x0 + column * x1 + sigma * (column * (1 - column)).sqrt() * z
    slopes = torch.stack([torch.autograd.grad(point[:, i].sum(), t, retain_graph=True)[0] for i in range(3)], 1)
    velocity = BrownianBridge(sigma).velocity(point.detach(), x0, x1, t.detach())
    torch.testing.assert_close(velocity, slopes, rtol=1e-10, atol=1e-10)


def test_velocity_and_score_solve_the_continuity_equation_of_the_density() -> None:
    """d log p / dt + v . grad log p + div v = 0 on the line, all by autograd."""
    x0, x1 = torch.tensor([[0.3]]), torch.tensor([[2.0]])
    bridge = BrownianBridge(0.8)
    for time, place in ((0.1, 0.0), (0.5, 1.9), (0.8, -0.4)):
        t = torch.tensor([time], requires_grad=True)
        x = torch.tensor([[place]], requires_grad=True)
        log_density = Normal((1 - t) * x0 + t * x1, 0.8 * (t * (1 - t)).sqrt()).log_prob(x).sum()
        in_time, in_space = torch.autograd.grad(log_density, (t, x))
        velocity = bridge.velocity(x, x0, x1, t.detach())
        (divergence,) = torch.autograd.grad(velocity.sum(), x)
        assert float((in_time + velocity * in_space + divergence).detach()) == pytest.approx(0, abs=1e-10)


def test_samples_have_the_moments_of_the_bridge_and_belong_to_their_targets() -> None:
    n, bridge, t = 20000, BrownianBridge(1.5), torch.tensor([0.1, 0.5, 0.9])
    for time in t.tolist():
        x0, x1 = torch.full((n, 1), -1.0), torch.full((n, 1), 3.0)
        draw = bridge.sample(x0, x1, torch.full((n,), time), seeded(4))
        variance = 1.5**2 * time * (1 - time)
        assert float(draw.xt.mean()) == pytest.approx(-1 + 4 * time, abs=4 * math.sqrt(variance / n))
        assert float(draw.xt.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
        torch.testing.assert_close(draw.velocity, bridge.velocity(draw.xt, x0, x1, draw.t))
        torch.testing.assert_close(draw.score, bridge.score(draw.xt, x0, x1, draw.t))


def test_weighted_score_target_is_minus_the_unit_noise() -> None:
    x0, x1 = ends(100, (2, 2))
    t = torch.rand(100, generator=seeded(3))
    bridge = BrownianBridge(0.4)
    draw = bridge.sample(x0, x1, t, seeded(5))
    weight = bridge.score_weight(t).reshape(-1, 1, 1)
    torch.testing.assert_close(weight * (0.4**2 / 2) * draw.score, -draw.noise, rtol=1e-9, atol=1e-9)
    assert abs(float(draw.noise.var()) - 1) < 4.5 * math.sqrt(2 / 400)


def test_at_the_ends_state_and_targets_are_finite_and_of_one_time() -> None:
    x0, x1 = ends(4)
    bridge = BrownianBridge(1.0, margin=1e-2)
    draw = bridge.sample(x0, x1, torch.tensor([0.0, 1e-9, 1 - 1e-9, 1.0]), seeded())
    torch.testing.assert_close(draw.t, torch.tensor([0.01, 0.01, 0.99, 0.99]))
    inside = bridge.sample(x0, x1, draw.t, seeded())
    for at_end, within in zip(draw, inside, strict=True):
        assert bool(at_end.isfinite().all())
        torch.testing.assert_close(at_end, within)
    assert float(draw.velocity.abs().max()) < 100


def test_product_states_and_the_generator() -> None:
    x0, x1 = ends(5)
    t = torch.linspace(0.1, 0.9, 5)
    bridge = BrownianBridge(1.0)
    draw = bridge.sample({"a": x0, "b": 2 * x0}, {"a": x1, "b": x1}, t, seeded())
    alone = bridge.sample(x0, x1, t, seeded())
    torch.testing.assert_close(draw.xt["a"], alone.xt)
    assert not torch.allclose(draw.noise["a"], draw.noise["b"])
    torch.testing.assert_close(draw.velocity["b"], bridge.velocity(draw.xt["b"], 2 * x0, x1, t))
    assert torch.equal(alone.xt, bridge.sample(x0, x1, t, seeded()).xt)
    assert not torch.equal(alone.xt, bridge.sample(x0, x1, t, seeded(1)).xt)
    half = bridge.sample(x0.bfloat16(), x1.bfloat16(), t.float(), seeded())
    assert half.xt.dtype == half.velocity.dtype == half.score.dtype == torch.bfloat16


def test_bad_numbers_are_named() -> None:
    for value in (0.0, -1.0, math.inf, math.nan):
        for kind in (SchroedingerBridge, BrownianBridge):
            with pytest.raises(ConfigError, match=f"sigma.*{value}.*positive and finite"):
                kind(value)
    for margin in (0.0, 0.5, -0.1):
        with pytest.raises(ConfigError, match=f"margin.*{margin}.*0.5"):
            BrownianBridge(1.0, margin=margin)
