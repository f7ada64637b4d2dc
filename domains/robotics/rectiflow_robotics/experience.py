"""Rollouts of the noisy policy, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_robotics.advantages import generalised_advantages
from rectiflow_robotics.chain import NoisyChain, Path
from rectiflow_robotics.chunks import Array, Environments, Transition
from rectiflow_robotics.critic import Critic
from rectiflow_robotics.ppo import Experience
from rectiflow_robotics.rewards import RewardScale


@dataclass(frozen=True)
class Credit:
    """How rewards count.

    Args:
        discount: gamma of one environment step; a chunk that executed n of them is discounted by gamma^n.
        trace: lambda of generalised advantage estimation, per chunk.

    Raises:
        ConfigError: a number outside [0, 1].
    """

    discount: float = 0.99
    trace: float = 0.6

    def __post_init__(self) -> None:
        if not (0 <= self.discount <= 1 and 0 <= self.trace <= 1):
            raise ConfigError(
                f"credit.discount={self.discount:g}, credit.trace={self.trace:g}: both must lie between 0 and 1"
            )


class Rollout(NamedTuple):
    """T chunks in N environments, in order, before they are valued.

    Attributes:
        observations: (T, N, …) what each chunk answered.
        finals: (T, N, …) what each ended on.
        path: denoising chains, (T N, …).
        rewards: (T, N).
        executed: (T, N) environment steps.
        terminated: (T, N) bool.
        done: (T, N) bool.
        success: (T, N) bool.
    """

    observations: Tensor
    finals: Tensor
    path: Path
    rewards: Tensor
    executed: Tensor
    terminated: Tensor
    done: Tensor
    success: Tensor

    def figures(self) -> dict[str, float]:
        """Episodes that ended, their share of successes (of the noisy policy), their mean return, and steps in all.

        Success counts every environment's first episode alone, so that short episodes do not count more often; the return is
        that of episodes that ended in this rollout, from its beginning on.
        """
        ended = self.done.any(0)
        first = self.done.float().argmax(0)
        slots = torch.arange(self.done.shape[1])
        successes = self.success[first, slots][ended]
        returns = self._returns()
        return {
            "episodes": float(self.done.sum()),
            "train_success": float(successes.float().mean()) if len(successes) else 0.0,
            "train_return": sum(returns) / len(returns) if returns else 0.0,
            "steps": float(self.executed.sum()),
        }

    def succeeded(self) -> Tensor:
        """(T, N) bool, whether a chunk's episode ended with success in this rollout."""
        following = torch.zeros_like(self.success[0])
        found = []
        for done, success in zip(reversed(self.done.unbind()), reversed(self.success.unbind()), strict=True):
            following = torch.where(done, success, following)
            found.append(following)
        return torch.stack(found[::-1])

    def _returns(self) -> list[float]:
        running = torch.zeros_like(self.rewards[0])
        found: list[float] = []
        for reward, done in zip(self.rewards, self.done, strict=True):
            running = running + reward
            found += running[done].tolist()
            running = running.masked_fill(done, 0.0)
        return found


def as_observation(observation: Array) -> Tensor:
    """An observation of the environments as the policy takes it: floats, or bytes for pictures."""
    tensor = torch.from_numpy(np.ascontiguousarray(observation))
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


def collect(
    chain: NoisyChain, environments: Environments, observation: Array, chunks: int, generator: torch.Generator
) -> tuple[Rollout, Array]:
    """Let the noisy policy act for `chunks` chunks from `observation`; returns what happened and the observation after it."""
    seen, paths, transitions = [], [], []
    for _ in range(chunks):
        now = as_observation(observation)
        path = chain.sample(now, generator)
        transition = environments.step(path.states[:, -1].numpy())
        seen.append(now)
        paths.append(path)
        transitions.append(transition)
        observation = transition.observation
    return _stack(seen, paths, transitions), observation


def _stack(seen: list[Tensor], paths: list[Path], transitions: list[Transition]) -> Rollout:
    columns = {name: np.stack([getattr(step, name) for step in transitions]) for name in Transition._fields}
    rewards = torch.from_numpy(columns["reward"]).float()
    terminated = torch.from_numpy(columns["terminated"])
    return Rollout(
        observations=torch.stack(seen),
        finals=torch.stack([as_observation(step.final) for step in transitions]),
        path=Path(*(torch.cat(parts) for parts in zip(*paths, strict=True))),
        rewards=rewards,
        executed=torch.from_numpy(columns["executed"]),
        terminated=terminated,
        done=terminated | torch.from_numpy(columns["truncated"]),
        success=torch.from_numpy(columns["success"]),
    )


@torch.no_grad()
def value(rollout: Rollout, critic: Critic, credit: Credit, scale: RewardScale) -> Experience:
    """The rollout with values, advantages and returns; `scale` takes in its rewards first."""
    discounts = credit.discount ** rollout.executed.float()
    scale.update(rollout.rewards, discounts, rollout.done)
    shape = rollout.rewards.shape
    values = critic(rollout.observations.flatten(0, 1)).view(shape)
    following = critic(rollout.finals.flatten(0, 1)).view(shape)
    found = generalised_advantages(
        scale.scale(rollout.rewards), values, following, rollout.terminated, rollout.done, discounts, credit.trace
    )
    return Experience(
        observations=rollout.observations.flatten(0, 1),
        path=rollout.path,
        values=values.flatten(),
        advantages=found.advantages.flatten(),
        returns=found.returns.flatten(),
        succeeded=rollout.succeeded().flatten(),
    )
