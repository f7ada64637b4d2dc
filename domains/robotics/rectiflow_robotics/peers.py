"""Advantages and actions as Stable-Baselines3 computes them, for `rectiflow bench peers`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from rectiflow.benchmarking.contest import OURS, Contest, largest_difference
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow.flow import Flow
from rectiflow_robotics.advantages import generalised_advantages
from rectiflow_robotics.policies import PolicyNetwork
from rectiflow_robotics.rollout import flow_policy

STEPS, ENVIRONMENTS = 256, 16
GAMMA, TRACE = 0.99, 0.95
SEEN, CHUNK = (39,), (4, 4)


def advantages(generator: torch.Generator) -> Contest:
    """Generalised advantages of 16 environments over 256 steps, with episodes that end inside."""
    shape = (STEPS, ENVIRONMENTS)
    rewards, values = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    last = torch.randn(ENVIRONMENTS, generator=generator)
    ended = torch.rand(shape, generator=generator) < 0.02
    following = torch.cat([values[1:], last[None]])
    discounts = torch.full(shape, GAMMA)
    makers: Makers[Callable[[], Tensor]] = {
        OURS: lambda: (
            lambda: generalised_advantages(rewards, values, following, ended, ended, discounts, TRACE).advantages
        ),
        "stable-baselines3": lambda: _their_advantages(rewards, values, last, ended),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "domains",
        "robotics: generalised advantages",
        runs,
        largest_difference,
        tolerance=1e-4,
        units=STEPS * ENVIRONMENTS,
        unit="step",
        missing=missing,
    )


def _their_advantages(rewards: Tensor, values: Tensor, last: Tensor, ended: Tensor) -> Callable[[], Tensor]:
    from stable_baselines3.common.buffers import RolloutBuffer

    space = Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(STEPS, space, space, "cpu", TRACE, GAMMA, ENVIRONMENTS)
    buffer.rewards[:], buffer.values[:] = rewards.numpy(), values.numpy()
    buffer.episode_starts[1:] = ended[:-1].numpy()

    def compute() -> Tensor:
        buffer.compute_returns_and_advantage(last, ended[-1].numpy())
        return torch.from_numpy(buffer.advantages.copy())

    return compute


def actions(generator: torch.Generator) -> Contest:
    """What one action costs: a flow of one step that gives four at a time, and a Gaussian policy that gives one."""
    seen = torch.randn(1, *SEEN, generator=generator)
    makers: Makers[Callable[[], object]] = {
        OURS: lambda: _our_policy(seen, generator),
        "stable-baselines3": lambda: _their_policy(seen),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "domains",
        "robotics: four actions",
        runs,
        units=1,
        unit="chunk of four actions",
        missing=missing,
        note="three layers of 256; theirs looks four times, as it must",
    )


def _our_policy(seen: Tensor, generator: torch.Generator) -> Callable[[], object]:
    network = PolicyNetwork(
        observations=torch.randn(100, *SEEN, generator=generator),
        actions=CHUNK,
        width=256,
        depth=3,
        frequencies=32,
        until=False,
        generator=generator,
    )
    policy = flow_policy(Flow(network.eval().requires_grad_(False)), "task", SEEN, CHUNK, steps=1)
    noise = torch.randn(1, *CHUNK, generator=generator)
    return lambda: policy.act(seen, noise)


def _their_policy(seen: Tensor) -> Callable[[], object]:
    from stable_baselines3.common.policies import ActorCriticPolicy

    policy = ActorCriticPolicy(
        Box(-np.inf, np.inf, SEEN, np.float32),
        Box(-1, 1, CHUNK[1:], np.float32),
        lambda _: 1e-3,
        net_arch={"pi": [256] * 3, "vf": [256] * 3},
    )
    policy.set_training_mode(False)
    observation = seen[0].numpy()
    return lambda: [policy.predict(observation)[0] for _ in range(CHUNK[0])]
