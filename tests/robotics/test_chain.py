"""The noisy chain: its likelihood against independent normal laws, its grid, its limits, and the guard that refuses others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow_robotics.chain import ChainMismatch, NoisyChain, Path, chain_kl, require_ratio_one
from rectiflow_robotics.noise import NoiseNetwork, scheduled_bounds

SHAPE = (3, 2)


class Net(nn.Module):
    """A small velocity network; `until` says whether it stands for averages."""

    def __init__(self, seed: int, *, until: bool = False, shape: tuple[int, int] = SHAPE) -> None:
        super().__init__()
        size = math.prod(shape)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(size + 5 + 2, 32), nn.Tanh(), nn.Linear(32, size))
        self.until = until

    def forward(self, x: Tensor, t: Tensor, observation: Tensor, until: Tensor | None = None) -> Tensor:
        end = until if self.until and until is not None else t
        given = torch.cat([x.flatten(1), observation, t[:, None], end[:, None]], 1).to(next(self.parameters()).dtype)
        moved: Tensor = self.body(given)
        return moved.view(x.shape)


def make(
    steps: int,
    *,
    average: bool = False,
    clamp: float | None = None,
    dtype: torch.dtype = torch.float64,
    shape: tuple[int, int] = SHAPE,
) -> NoisyChain:
    noise = NoiseNetwork(5, shape, steps, low=0.05, high=0.2, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(noise.last.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    net = Net(0, until=average, shape=shape).to(dtype)
    return NoisyChain(Flow(net, average=average), noise.to(dtype), steps, lambda o: o, clamp)


def observations(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(3)).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize(("shape", "steps"), [((3, 2), 4), ((1, 1), 1), ((8, 8), 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_log_probability_is_that_of_one_block_diagonal_normal(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, int], steps: int
) -> None:
    chain = make(steps, dtype=dtype, shape=shape)
    seen, size = observations(7, dtype), math.prod(shape)
    path = chain.replay(chain.sample(seen, torch.Generator().manual_seed(5)).states, seen)
    source = MultivariateNormal(torch.zeros(size).double(), torch.eye(size).double())
    for row in range(7):
        x, o = path.states[row], seen[row : row + 1]
        expected = float(source.log_prob(x[0].flatten().double()))
        for k in range(steps):
            # velocity and noise straight from the networks, at the time k / K that the chain is to use
            v = chain.flow.model(x[k][None], torch.full((1,), k / steps, dtype=dtype), observation=o)
            sigma = chain.noise(torch.tensor([k]), o)[0].flatten().double()
            law = MultivariateNormal((x[k] + v[0] / steps).flatten().double(), torch.diag(sigma**2))
            expected += float(law.log_prob(x[k + 1].flatten().double()))
        assert float(path.log_prob()[row]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_ratio_is_one_before_the_first_update(steps: int, average: bool, training: bool) -> None:
    chain = make(steps, average=average, dtype=torch.float32)
    chain.noise.train(training)
    chain.flow.model.train(training)
    seen = observations(256, torch.float32)
    path = chain.sample(seen, torch.Generator().manual_seed(0))
    chosen = torch.randperm(256, generator=torch.Generator().manual_seed(1))[:100]
    assert require_ratio_one(path.rows(chosen), chain.replay(path.states[chosen], seen[chosen]), 1e-6) <= 1e-6


@pytest.mark.parametrize("steps", [2, 4])
def test_another_grid_is_refused(steps: int) -> None:
    chain = make(steps, dtype=torch.float32)
    seen = observations(64, torch.float32)
    path = chain.sample(seen, torch.Generator().manual_seed(0))
    other = replace(chain)
    # What a sampler on linspace(0, 1, K) does, whose last velocity is that of t = 1.
    object.__setattr__(other, "times", torch.linspace(0, 1 + 1 / (steps - 1), steps + 1, dtype=torch.float64))
    with pytest.raises(ChainMismatch, match="differs from the sampler's"):
        require_ratio_one(path, other.replay(path.states, seen))


def test_a_network_that_is_not_deterministic_is_refused() -> None:
    chain = make(2, dtype=torch.float32)
    calls = iter(range(100))
    model = chain.flow.model
    noisy = replace(chain, flow=Flow(lambda x, t, observation: model(x, t, observation) * (1 + 0.01 * next(calls))))
    seen = observations(32, torch.float32)
    path = noisy.sample(seen, torch.Generator().manual_seed(0))
    with pytest.raises(ChainMismatch):
        require_ratio_one(path, noisy.replay(path.states, seen))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("average", [False, True])
def test_sampler_and_likelihood_ask_for_the_velocity_at_k_over_K(steps: int, average: bool) -> None:
    asked: list[tuple[Tensor, Any]] = []

    def model(x: Tensor, t: Tensor, observation: Tensor, until: Tensor | None = None) -> Tensor:
        asked.append((t, until))
        return torch.zeros_like(x)

    chain = replace(make(steps), flow=Flow(model, average=average))
    path = chain.sample(observations(3), torch.Generator().manual_seed(0))
    sampled = [float(t[0]) for t, _ in asked]
    assert sampled == pytest.approx([k / steps for k in range(steps)], abs=1e-12)
    if average:
        assert [float(until[0]) for _, until in asked] == pytest.approx(
            [(k + 1) / steps for k in range(steps)], abs=1e-12
        )
    asked.clear()
    chain.replay(path.states, observations(3))
    assert [float(t[0]) for t, _ in asked] == pytest.approx(sampled, abs=1e-12)
    assert all(t.shape == (3,) and len(t.unique()) == 1 for t, _ in asked)


class Silent(nn.Module):
    """No noise at all."""

    shape = SHAPE

    def forward(self, step: Tensor, observation: Tensor) -> Tensor:
        return torch.zeros(len(step), *SHAPE)


@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("average", [False, True])
def test_at_no_noise_the_chain_is_the_deployed_policy_to_the_bit(clamp: float | None, average: bool) -> None:
    chain = replace(make(4, clamp=clamp, average=average), noise=Silent())  # type: ignore[arg-type]
    seen = observations(50)
    path = chain.sample(seen, torch.Generator().manual_seed(9))
    assert torch.equal(path.states[:, -1], chain.act(seen, path.states[:, 0]))
    if clamp is None:
        method = "jump" if average else "euler"
        solution = integrate(chain.flow, path.states[:, 0], steps=4, method=method, cond={"observation": seen})
        torch.testing.assert_close(path.states[:, -1], solution.x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("clamp", [None, 0.8])
def test_without_noise_the_chain_is_the_flow(clamp: float | None) -> None:
    chain = make(4, clamp=clamp)
    seen = observations(400)
    x0 = chain.flow.sample_source((400, *SHAPE), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    still = chain.act(seen, x0)
    errors = []
    for sigma in (1e-1, 1e-2, 1e-3, 1e-4):
        noise = NoiseNetwork(
            5, SHAPE, 4, low=sigma, high=sigma, learnt=False, generator=torch.Generator().manual_seed(1)
        )
        path = replace(chain, noise=noise.double()).sample(seen, torch.Generator().manual_seed(9))
        assert torch.equal(path.states[:, 0], x0)
        errors.append(float((path.states[:, -1] - still).square().mean().sqrt()))
        assert sigma / 2 < errors[-1] <= 4 * sigma
    if clamp is None:
        slope = math.log(errors[0] / errors[-1]) / math.log(1e3)
        assert slope == pytest.approx(1.0, abs=0.02)


def test_kl_is_that_of_the_product_of_the_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = (
        Path(
            torch.zeros(5, 3, *SHAPE),
            torch.randn(5, 2, *SHAPE, generator=generator),
            torch.rand(5, 2, *SHAPE, generator=generator) + 0.3,
        )
        for _ in range(2)
    )
    expected = kl_divergence(Normal(old.means, old.stds), Normal(new.means, new.stds)).flatten(1).sum(1)
    assert chain_kl(old, new) == pytest.approx(expected, abs=1e-5)
    assert float(chain_kl(old, old).abs().max()) < 1e-6


def test_entropy_rate_is_the_entropy_per_element() -> None:
    path = make(3).sample(observations(2), torch.Generator().manual_seed(0))
    steps = Normal(torch.zeros_like(path.means), path.stds).entropy().flatten(1).sum(1)
    source = 6 * Normal(torch.tensor(0.0).double(), 1.0).entropy()
    assert path.entropy_rate().tolist() == pytest.approx(((steps + source) / 24).tolist(), abs=1e-7)


def test_gradient_of_the_ratio_is_that_of_the_expected_reward() -> None:
    """A bandit in one dimension, r = -(a - a*)^2, K = 2: the estimator against finite differences on common noise."""
    count, wanted = 100_000, 0.7
    noise = NoiseNetwork(
        1, (1, 1), 2, low=0.3, high=0.3, learnt=False, generator=torch.Generator().manual_seed(0)
    ).double()
    seen = torch.zeros(count, 1).double()

    def chain(theta: Tensor) -> NoisyChain:
        flow = Flow(lambda x, t, observation: theta * (1 + x) - 0.5 * x * t[:, None, None])
        return NoisyChain(flow, noise, 2, lambda o: o)

    def rewards(theta: float) -> Tensor:
        path = chain(torch.tensor(theta).double()).sample(seen, torch.Generator().manual_seed(4))
        return -(path.states[:, -1] - wanted).square().flatten()

    step = 1e-4
    difference = (rewards(0.2 + step) - rewards(0.2 - step)) / (2 * step)
    theta = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    path = chain(theta.detach()).sample(seen, torch.Generator().manual_seed(5))
    reward = -(path.states[:, -1] - wanted).square().flatten()
    advantage = reward - reward.mean()
    # per-sample scores by one backward pass a block, for the estimator's own standard error
    blocks = []
    for states, block in zip(path.states.split(1000), advantage.split(1000), strict=True):
        log_prob = chain(theta).replay(states, seen[: len(states)]).log_prob()
        (score,) = torch.autograd.grad((log_prob * block).mean(), theta)
        blocks.append(float(score))
    estimates = torch.tensor(blocks)
    error = math.hypot(float(estimates.std()) / math.sqrt(len(blocks)), float(difference.std()) / math.sqrt(count))
    assert abs(float(estimates.mean()) - float(difference.mean())) < 3 * error  # the bar; seeds are fixed
    assert abs(float(difference.mean())) > 20 * error


def test_sigma_stays_between_its_bounds_and_starts_at_their_geometric_mean() -> None:
    noise = NoiseNetwork(5, SHAPE, 3, low=0.05, high=0.2, generator=torch.Generator().manual_seed(0))
    steps, seen = torch.arange(3).repeat(100), 1e3 * observations(300, torch.float32)
    torch.testing.assert_close(noise(steps, seen), torch.full((300, *SHAPE), 0.1))
    nn.init.normal_(noise.last.weight, std=50.0, generator=torch.Generator().manual_seed(1))
    sigma = noise(steps, seen).detach()
    assert 0.05 * (1 - 1e-6) <= float(sigma.min()) < 0.06
    assert 0.19 < float(sigma.max()) <= 0.2 * (1 + 1e-6)


def test_bounds_follow_the_schedule() -> None:
    for progress in (0.0, 0.2, 0.35):
        assert scheduled_bounds(progress, 0.1, 0.24) == (0.1, 0.24)
    low, high = scheduled_bounds(1.0, 0.1, 0.24)
    assert (low, high) == pytest.approx((0.1, 0.3 * 0.1 + 0.7 * 0.24), abs=1e-6)
    middle = scheduled_bounds(0.675, 0.1, 0.24)[1]
    assert middle == pytest.approx((0.24 + 0.198) / 2, abs=1e-6)


def test_what_is_not_allowed_is_said() -> None:
    generator = torch.Generator()
    with pytest.raises(ConfigError, match="0 < low <= high"):
        NoiseNetwork(5, SHAPE, 1, low=0.2, high=0.1, generator=generator)
    with pytest.raises(ConfigError, match="0 denoising steps"):
        replace(make(2), steps=0)
    with pytest.raises(ConfigError, match="clamp"):
        make(2, clamp=-1.0)
