"""Chunks of actions in several environments of one process, and what they led to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rectiflow.errors import ConfigError
from rectiflow_robotics.environments import Description, Reward, TaskEnvironment, describe, make_environment

Array = NDArray[Any]


class Transition(NamedTuple):
    """One chunk in N environments.

    Attributes:
        observation: (N, …) what the next chunk answers; where an episode ended, the first of the next episode.
        final: (N, …) what this chunk ended on; its value is what a time limit bootstraps from.
        reward: (N,) sum over the actions executed.
        executed: (N,) actions executed, fewer than the chunk has where the episode ended inside it.
        terminated: (N,) the task itself ended.
        truncated: (N,) the time was up, or the simulator broke.
        success: (N,) the task is done.
    """

    observation: Array
    final: Array
    reward: Array
    executed: Array
    terminated: Array
    truncated: Array
    success: Array

    @property
    def done(self) -> Array:
        """(N,) whether an episode ended, for whatever reason."""
        ended: Array = self.terminated | self.truncated
        return ended


class ChunkResult(NamedTuple):
    """One chunk in one environment; as `Transition`, without the next episode."""

    observation: Array
    reward: float
    executed: int
    terminated: bool
    truncated: bool
    success: bool


def step_chunk(environment: TaskEnvironment, actions: Array) -> ChunkResult:
    """Execute actions (Ta, Da) one after another, until the episode ends."""
    total = 0.0
    for executed, action in enumerate(actions, start=1):
        observation, reward, terminated, truncated, info = environment.step(action)
        total += reward
        if terminated or truncated or executed == len(actions):
            return ChunkResult(observation, total, executed, terminated, truncated, info["success"])
    raise ConfigError("a chunk has no actions; it needs at least 1")


def episode_seed(seed: int, *place: int) -> int:
    """A seed for the episode at some place (slot, number, …) of a run with this seed."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])


class Environments(Protocol):
    """N environments of one task that take chunks of actions, wherever they are simulated."""

    @property
    def broken(self) -> int:
        """Simulator failures so far."""
        ...

    def __len__(self) -> int: ...

    def reset(self, seed: int | None = None) -> Array:
        """Begin anew everywhere, with another seed if one is given, and return the observations (N, …)."""
        ...

    def step(self, actions: Array) -> Transition:
        """Execute a chunk (N, Ta, Da)."""
        ...

    def close(self) -> None:
        """Let go of what simulates."""
        ...


class ChunkedEnvironments:
    """N environments of one task in this process; an episode that ends is followed by the next at once.

    Episode j of environment i is decided by (seed, first + i, j), so that two runs with the same actions see the same. In terms
    of gymnasium's vector environments this is SAME_STEP: no step is spent on resetting.

    Raises:
        ConfigError: fewer than one environment.
    """

    def __init__(
        self,
        name: str,
        count: int,
        *,
        seed: int = 0,
        reward: Reward = "sparse",
        limit: int | None = None,
        first: int = 0,
    ) -> None:
        if count < 1:
            raise ConfigError(f"envs={count} is not allowed; at least 1 environment is needed")
        self.environments = [make_environment(name, reward=reward, limit=limit) for _ in range(count)]
        self.seed = seed
        self.first = first
        self._episodes = [0] * count

    def __len__(self) -> int:
        return len(self.environments)

    @property
    def description(self) -> Description:
        """The task."""
        return describe(self.environments[0])

    @property
    def broken(self) -> int:
        """Simulator failures so far; each cost one episode its end."""
        return sum(environment.broken for environment in self.environments)

    def close(self) -> None:
        """Nothing: what simulates goes with this process."""

    def reset(self, seed: int | None = None, *, episodes: Sequence[int] | None = None) -> Array:
        """Begin anew everywhere and return the observations (N, …).

        Args:
            seed: another one from now on.
            episodes: (N,) number of the episode that each begins with; 0 by default.
        """
        self.seed = self.seed if seed is None else seed
        self._episodes = list(episodes) if episodes is not None else [0] * len(self)
        return np.stack([self._next(slot) for slot in range(len(self))])

    def step(self, actions: Array) -> Transition:
        """Execute a chunk (N, Ta, Da).

        Raises:
            ConfigError: actions of another shape.
        """
        expected = (len(self), self.description.actions)
        if actions.ndim != 3 or (actions.shape[0], actions.shape[2]) != expected or actions.shape[1] < 1:
            raise ConfigError(
                f"chunks have shape {actions.shape}; {expected[0]} environments of {self.description.name} take "
                f"({expected[0]}, steps, {expected[1]})"
            )
        results = [step_chunk(env, chunk) for env, chunk in zip(self.environments, actions, strict=True)]
        following = [
            self._next(slot) if result.terminated or result.truncated else result.observation
            for slot, result in enumerate(results)
        ]
        columns: Sequence[Any] = list(zip(*results, strict=True))
        final, reward, executed, terminated, truncated, success = (np.asarray(column) for column in columns)
        return Transition(np.stack(following), final, reward, executed, terminated, truncated, success)

    def _next(self, slot: int) -> Array:
        seed = episode_seed(self.seed, self.first + slot, self._episodes[slot])
        self._episodes[slot] += 1
        return self.environments[slot].reset(seed=seed)[0]
