from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from rectiflow.errors import ConfigError, DataError
from rectiflow_robotics.chunks import ChunkedEnvironments, step_chunk
from rectiflow_robotics.environments import TaskEnvironment, describe, make_environment
from rectiflow_robotics.point_reach import RADIUS, STEP, reach
from rectiflow_robotics.simulators import Suite


class Faulty(gym.Env[np.ndarray, np.ndarray]):
    """Counts steps; breaks in a way that `fault` says at its third step, but only in its first life."""

    lives = 0
    fault = ""

    def __init__(self) -> None:
        self.action_space = Box(np.array([0.0, 10.0]), np.array([4.0, 30.0]), dtype=np.float64)
        self.observation_space = Box(-np.inf, np.inf, (1,))
        type(self).lives += 1
        self.first = type(self).lives == 1
        self.count = 0
        self.given: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return np.array([np.nan if self.fault == "start" else 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count, self.given = self.count + 1, action
        broken = self.first and self.count == 3
        if broken and self.fault == "raise":
            raise RuntimeError("the contact solver gave up")
        seen = np.nan if broken and self.fault == "nan" else float(self.count)
        reward = np.inf if broken and self.fault == "reward" else 0.5
        return np.array([seen]), reward, False, False, {"success": self.count == 6}


def faulty(fault: str, **settings: Any) -> TaskEnvironment:
    kind = type("Fault", (Faulty,), {"fault": fault, "lives": 0})
    suite = Suite("faulty", lambda: ("faulty",), lambda name: True, lambda name: kind(), limit=8)
    return TaskEnvironment("faulty", suite, **{"reward": "sparse", "limit": 8, **settings})


@pytest.mark.parametrize("fault", ["raise", "nan", "reward"])
def test_a_broken_simulator_truncates_and_is_built_anew(fault: str) -> None:
    environment = faulty(fault)
    environment.reset(seed=0)
    for _ in range(2):
        environment.step(np.zeros(2))
    observation, reward, terminated, truncated, info = environment.step(np.zeros(2))
    assert (observation[0], reward, terminated, truncated) == (2.0, 0.0, False, True)
    assert info["broken"]
    assert not info["success"]
    assert environment.broken == 1
    environment.reset(seed=1)
    for _ in range(5):
        *_, truncated, info = environment.step(np.zeros(2))
        assert not truncated
    *_, terminated, truncated, info = environment.step(np.zeros(2))
    assert terminated
    assert info["success"]
    assert environment.broken == 1


def test_a_simulator_that_does_not_start_says_so() -> None:
    with pytest.raises(DataError, match="did not start"):
        faulty("start").reset(seed=0)


def test_actions_spread_over_the_simulators_bounds_and_are_clipped() -> None:
    environment = faulty("")
    environment.reset(seed=0)
    for action, expected in (([-1, -1], [0, 10]), ([1, 1], [4, 30]), ([0, 0.5], [2, 25]), ([9, -9], [4, 10])):
        environment.step(np.array(action))
        np.testing.assert_allclose(environment.base.given, expected)  # type: ignore[attr-defined]


def test_rewards_are_sparse_or_the_simulators_and_time_is_limited() -> None:
    sparse, dense = faulty(""), faulty("", reward="dense")
    sparse.reset(seed=0)
    dense.reset(seed=0)
    assert [sparse.step(np.zeros(2))[1] for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert [dense.step(np.zeros(2))[1] for _ in range(6)] == [0.5] * 6
    short = faulty("", limit=4)
    short.reset(seed=0)
    assert [short.step(np.zeros(2))[3] for _ in range(4)] == [False, False, False, True]


def test_success_on_the_last_step_is_an_end_not_a_time_limit() -> None:
    environment = faulty("", limit=6)
    environment.reset(seed=0)
    *_, terminated, truncated, _ = [environment.step(np.zeros(2)) for _ in range(6)][-1]
    assert (terminated, truncated) == (True, False)


def test_the_point_moves_as_told_and_its_expert_arrives() -> None:
    environment = make_environment("point-reach")
    start, _ = environment.reset(seed=3)
    after = environment.step(np.array([1.0, -0.5]))[0]
    np.testing.assert_allclose(after[:2] - start[:2], [STEP, -0.5 * STEP], atol=1e-6)
    np.testing.assert_array_equal(after[2:], start[2:])
    observation, steps, ended = after, 1, False
    while not ended:
        observation, _, ended, truncated, info = environment.step(reach(observation[:2], observation[2:]))
        assert not truncated
        steps += 1
    assert info["success"]
    assert np.linalg.norm(observation[:2] - observation[2:]) <= RADIUS
    # The slower axis, a step at a time, and no detour: the goal is within RADIUS one step before the last at the latest.
    farthest = np.abs(after[2:] - after[:2]).max()
    assert steps - 1 in (int(np.ceil(farthest / STEP)), int(np.ceil((farthest - RADIUS) / STEP)))


@pytest.mark.parametrize("name", ["point-reach", "point-reach-pixels"])
def test_a_seed_decides_an_episode_whatever_came_before(name: str) -> None:
    first, second = make_environment(name), make_environment(name)
    second.reset(seed=8)
    second.step(np.ones(2))
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]  # noqa: NPY002
    np.testing.assert_array_equal(first.reset(seed=5)[0], second.reset(seed=5)[0])
    np.testing.assert_array_equal(first.step(np.ones(2))[0], second.step(np.ones(2))[0])
    assert (np.random.get_state()[1] == state).all()  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("point-reech", "did you mean point-reach"),
        ("Hoper-v5", "Hopper-v5"),
        ("FetchPuch-v4", "FetchPush-v4"),
        ("zzzz", "for example"),
    ],
)
def test_unknown_environments_list_near_names(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_environment(name)


def test_a_chunk_stops_where_the_episode_ends_and_sums_what_it_got() -> None:
    chunked, single = faulty("", reward="dense"), faulty("", reward="dense")
    chunked.reset(seed=0)
    single.reset(seed=0)
    actions = np.linspace(-1, 1, 20).reshape(10, 2)
    rewards = [single.step(action) for action in actions[:4]]
    result = step_chunk(chunked, actions[:4])
    assert (result.reward, result.executed) == (sum(step[1] for step in rewards), 4)
    np.testing.assert_array_equal(result.observation, rewards[-1][0])
    last = step_chunk(chunked, actions[4:])
    assert (last.executed, last.reward, last.terminated, last.truncated, last.success) == (2, 1.0, True, False, True)


def test_several_environments_reset_at_once_and_hand_over_where_they_ended() -> None:
    environments = ChunkedEnvironments("point-reach", 3, seed=4, limit=6)
    first = environments.reset()
    assert first.shape == (3, 4)
    assert environments.description == describe(environments.environments[0])
    away = np.full((3, 4, 2), -1.0)
    step = environments.step(away)
    assert not step.done.any()
    np.testing.assert_array_equal(step.observation, step.final)
    np.testing.assert_array_equal(step.executed, [4, 4, 4])
    step = environments.step(away)
    assert step.truncated.all()
    assert not step.terminated.any()
    np.testing.assert_array_equal(step.executed, [2, 2, 2])
    np.testing.assert_array_equal(step.final[:, 2:], first[:, 2:])  # the old goal
    assert (step.observation[:, 2:] != first[:, 2:]).any(1).all()  # a new one
    again = ChunkedEnvironments("point-reach", 3, seed=4, limit=6)
    np.testing.assert_array_equal(again.reset(), first)
    again.step(away)
    np.testing.assert_array_equal(again.step(away).observation, step.observation)
    assert (again.reset(seed=5) != first).any()


def test_chunks_of_another_shape_are_refused() -> None:
    environments = ChunkedEnvironments("point-reach", 2)
    environments.reset()
    with pytest.raises(ConfigError, match=r"\(2, steps, 2\)"):
        environments.step(np.zeros((2, 4, 3)))
    with pytest.raises(ConfigError, match="at least 1"):
        ChunkedEnvironments("point-reach", 0)
