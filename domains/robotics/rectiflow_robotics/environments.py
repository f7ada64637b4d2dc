"""Tasks of several simulators in one form: actions in [-1, 1], a success flag, a sparse reward, and no way to crash a run."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rectiflow.errors import ConfigError, DataError
from rectiflow_robotics.simulators import SUITES, Suite

Array = NDArray[Any]
Reward = Literal["sparse", "dense"]


class TaskEnvironment(gym.Env[Array, Array]):
    """One task, whatever simulates it.

    - Actions are (Da,) in [-1, 1], clipped, then spread over the simulator's own bounds.
    - Observations are (Do,) float32, or pictures (3, H, W) of bytes.
    - `info["success"]` says whether the task is done; a task that has an end terminates there.
    - The sparse reward is 1 at success; the dense one is the simulator's. Tasks without success have only the dense one.
    - After `limit` steps the episode is truncated.
    - A simulator that raises, or whose observation or reward is not finite, gives a truncated transition that ends on the
      last good observation, with `info["broken"]`, and is built anew for the next episode. `broken` counts them.

    `reset(seed=…)` decides the whole episode, whatever came before.
    """

    def __init__(self, name: str, suite: Suite, *, reward: Reward, limit: int) -> None:
        self.name = name
        self.suite = suite
        self.limit = limit
        self.sparse = reward == "sparse" and suite.succeeds
        self.broken = 0
        self.steps = 0
        self.base = suite.make(name)
        bounds = self.base.action_space
        space = self.base.observation_space
        if not isinstance(bounds, Box) or not isinstance(space, Box):
            raise ConfigError(
                f"env={name} has actions {bounds} and observations {space}; both must be boxes of numbers"
            )
        self._low, self._high = bounds.low.astype(np.float64), bounds.high.astype(np.float64)
        self.action_space = Box(-1.0, 1.0, bounds.shape, np.float32)
        picture = len(space.shape) == 3
        self.observation_space = space if picture else Box(-np.inf, np.inf, space.shape, np.float32)
        self._last = np.zeros(space.shape, self.observation_space.dtype)
        self._stale = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode.

        Raises:
            DataError: the simulator does not even start.
        """
        super().reset(seed=seed)
        self.steps = 0
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        for _ in range(2):
            if self._stale:
                self.base = self.suite.make(self.name)
            try:
                observation, info = self.base.reset(seed=seed)
            except self.suite.crashes:
                observation, info = np.full(self._last.shape, np.nan), {}
            self._stale = not np.isfinite(observation).all()
            if not self._stale:
                self._last = observation.astype(self.observation_space.dtype)
                return self._last, {**info, "success": False}
            self.broken += 1
        raise DataError(f"env={self.name} did not start twice in a row, with seed {seed}; check its installation")

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        self.steps += 1
        ratio = (np.clip(np.asarray(action, np.float64), -1, 1) + 1) / 2
        try:
            observation, reward, terminated, truncated, info = self.base.step(
                (self._low + ratio * (self._high - self._low)).astype(np.float32)
            )
        except self.suite.crashes as error:
            return self._broke(f"{type(error).__name__}: {error}")
        if not (np.isfinite(observation).all() and np.isfinite(float(reward))):
            return self._broke("an observation or reward that is not finite")
        self._last = observation.astype(self.observation_space.dtype)
        success = bool(info.get("success", False))
        value = float(success) if self.sparse else float(reward)
        ended = bool(terminated) or success
        return (
            self._last,
            value,
            ended,
            not ended and (bool(truncated) or self.steps >= self.limit),
            {
                **info,
                "success": success,
            },
        )

    def _broke(self, why: str) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.broken += 1
        self._stale = True
        return self._last, 0.0, False, True, {"success": False, "broken": why}


@dataclass(frozen=True)
class Description:
    """What a policy must know of a task.

    Attributes:
        name: of the environment.
        observation: shape of an observation, (Do,) or (3, H, W).
        actions: numbers an action has.
        limit: steps of an episode.
        succeeds: whether there is such a thing as success.
    """

    name: str
    observation: tuple[int, ...]
    actions: int
    limit: int
    succeeds: bool


def suite_of(name: str) -> Suite:
    """The simulator that has a task of this name.

    Raises:
        ConfigError: none has; the nearest names are given.
        MissingDependency: its package is not installed.
    """
    for suite in SUITES:
        if suite.has(name):
            return suite
    known = [task for suite in SUITES for task in suite.names()]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else f"for example {', '.join(known[:6])}"
    raise ConfigError(f"env={name} is unknown; {hint}")


def make_environment(name: str, *, reward: Reward = "sparse", limit: int | None = None) -> TaskEnvironment:
    """A task by name: point-reach, a Meta-World (push-v3), Fetch (FetchPush-v4) or locomotion task (Hopper-v5).

    Args:
        name: of the task.
        reward: sparse | dense.
        limit: steps of an episode; the task's own by default.

    Raises:
        ConfigError: an unknown task, reward or limit.
        MissingDependency: its simulator is not installed.
    """
    if reward not in ("sparse", "dense"):
        raise ConfigError(f"reward={reward} is unknown; allowed: sparse, dense")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} is not allowed; an episode has at least 1 step")
    suite = suite_of(name)
    return TaskEnvironment(name, suite, reward=reward, limit=limit or suite.limit)


def describe(environment: TaskEnvironment) -> Description:
    """What a policy must know of this environment."""
    observation, actions = environment.observation_space.shape, environment.action_space.shape
    if observation is None or actions is None:
        raise ConfigError(f"env={environment.name} has no fixed shapes; a policy needs them")
    return Description(environment.name, observation, actions[0], environment.limit, environment.suite.succeeds)
