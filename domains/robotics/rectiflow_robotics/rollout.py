"""Policies at work: episodes of a task, each decided by its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectiflow.drawing import move
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow_robotics.chunks import ChunkResult, episode_seed, step_chunk
from rectiflow_robotics.environments import Description, TaskEnvironment, describe

Array = NDArray[Any]
Act = Callable[[Tensor, Tensor], Tensor]
"""(observations (n, …), noise (n, Ta, Da)) -> chunks (n, Ta, Da); the same noise gives the same chunk."""


@dataclass(frozen=True)
class Policy:
    """What acts.

    Attributes:
        environment: name of the task it was made for.
        observation: shape of what it sees.
        chunk: (Ta, Da), what it answers.
        act: how.
    """

    environment: str
    observation: tuple[int, ...]
    chunk: tuple[int, int]
    act: Act

    def check(self, task: Description) -> None:
        """Refuse a task that it was not made for.

        Raises:
            ConfigError: another name, or other shapes.
        """
        if self.environment != task.name:
            raise ConfigError(
                f"the policy was made for {self.environment} and cannot act in {task.name}; train one: "
                f"rectiflow train robotics data.env={task.name}"
            )
        if (self.observation, self.chunk[1]) != (task.observation, task.actions):
            raise ConfigError(
                f"the policy sees {self.observation} and gives {self.chunk[1]} numbers an action; {task.name} shows "
                f"{task.observation} and takes {task.actions}: was it made with another version of the simulator?"
            )


def flow_policy(
    flow: Flow,
    environment: str,
    observation: tuple[int, ...],
    chunk: tuple[int, int],
    *,
    steps: int,
    method: str = "euler",
    device: torch.device | str = "cpu",
) -> Policy:
    """A flow as a policy, without noise but for x0: `steps` steps on t_k = k / steps."""

    def act(observations: Tensor, noise: Tensor) -> Tensor:
        cond = {"observation": observations.to(device)}
        solution = integrate(flow, move(noise, device), steps=steps, method=method, cond=cond)
        chunks: Tensor = solution.x.cpu()
        return chunks

    return Policy(environment, observation, chunk, act)


@dataclass(frozen=True)
class Episode:
    """What happened.

    Attributes:
        number: of the episode, which with the run's seed decides start, goal and noise.
        success: whether the task was done.
        total: sum of rewards.
        length: steps.
        broken: whether the simulator failed.
        observations: (length + 1, …), the last one included; None unless recorded.
        actions: (length, Da); None unless recorded.
    """

    number: int
    success: bool
    total: float
    length: int
    broken: bool
    observations: Array | None = None
    actions: Array | None = None


class _Slot:
    """One environment and the episode that it is in."""

    def __init__(self, environment: TaskEnvironment, record: bool) -> None:
        self.environment = environment
        self.record = record

    def begin(self, seed: int, number: int) -> None:
        own = episode_seed(seed, number)
        self.number, self.total, self.broken = number, 0.0, self.environment.broken
        self.noise = torch.Generator().manual_seed(own)
        self.observation, _ = self.environment.reset(seed=own)
        self.seen: list[Array] = [self.observation]
        self.done: list[Array] = []

    def draw(self, chunk: tuple[int, int]) -> Tensor:
        return torch.randn(chunk, generator=self.noise)

    def advance(self, actions: Array) -> Episode | None:
        """Execute a chunk; the episode, if it ended."""
        result = self._recorded(actions) if self.record else step_chunk(self.environment, actions)
        self.observation, self.total = result.observation, self.total + result.reward
        if not (result.terminated or result.truncated):
            return None
        return Episode(
            self.number,
            result.success,
            self.total,
            self.environment.steps,
            self.environment.broken > self.broken,
            np.stack(self.seen) if self.record else None,
            np.stack(self.done) if self.record else None,
        )

    def _recorded(self, actions: Array) -> ChunkResult:
        total = 0.0
        for action in actions[:-1]:
            result = self._step(action)
            total += result.reward
            if result.terminated or result.truncated:
                return result._replace(reward=total)
        result = self._step(actions[-1])
        return result._replace(reward=total + result.reward)

    def _step(self, action: Array) -> ChunkResult:
        result = step_chunk(self.environment, action[None])
        self.seen.append(result.observation)
        self.done.append(action)
        return result


def rollout(
    policy: Policy, environments: Sequence[TaskEnvironment], *, episodes: int, seed: int, record: bool = False
) -> list[Episode]:
    """Episodes 0 to `episodes` - 1 of a seed, in order, whatever the number of environments.

    Which episode is played where is settled beforehand, so short episodes do not count for more than long ones; start, goal and
    noise of episode i follow from (seed, i), so that two policies meet the same.

    Args:
        policy: what acts.
        environments: of one task, at least one.
        episodes: at least one.
        seed: of the episodes.
        record: whether observations and actions are kept.

    Raises:
        ConfigError: no environment or episode, or a policy of another task.
    """
    if episodes < 1 or not environments:
        raise ConfigError(f"{episodes} episodes in {len(environments)} environments; at least 1 of each is needed")
    policy.check(describe(environments[0]))
    active = [_Slot(environment, record) for environment in environments[:episodes]]
    stride = len(active)
    for number, slot in enumerate(active):
        slot.begin(seed, number)
    finished: list[Episode] = []
    while active:
        observations = torch.from_numpy(np.stack([slot.observation for slot in active]))
        noise = torch.stack([slot.draw(policy.chunk) for slot in active])
        chunks = policy.act(observations, noise).numpy()
        for slot, actions in zip(tuple(active), chunks, strict=True):
            episode = slot.advance(actions)
            if episode is None:
                continue
            finished.append(episode)
            if episode.number + stride < episodes:
                slot.begin(seed, episode.number + stride)
            else:
                active.remove(slot)
    return sorted(finished, key=lambda episode: episode.number)
