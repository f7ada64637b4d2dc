"""Advantages against the definition, sum by sum, and rewards against numpy."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from rectiflow_robotics.advantages import explained_variance, generalised_advantages, normalised
from rectiflow_robotics.chunks import ChunkedEnvironments
from rectiflow_robotics.environments import TaskEnvironment
from rectiflow_robotics.rewards import RewardScale
from rectiflow_robotics.simulators import Suite

T, N, TRACE = 12, 5, 0.9


def reference(
    r: list[float], v: list[float], after: list[float], terminated: list[bool], done: list[bool], g: list[float]
) -> list[float]:
    """A_t as the double sum over what follows inside the episode, written from the definition."""
    found = []
    for t in range(len(r)):
        total, weight = 0.0, 1.0
        for s in range(t, len(r)):
            bootstrap = 0.0 if terminated[s] else after[s]
            total += weight * (r[s] + g[s] * bootstrap - v[s])
            if done[s]:
                break
            weight *= g[s] * TRACE
        found.append(total)
    return found


def test_advantages_are_the_double_sum_with_ends_of_both_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values, following = (torch.randn(T, N, generator=generator).double() for _ in range(3))
    terminated = torch.rand(T, N, generator=generator) < 0.15
    truncated = (torch.rand(T, N, generator=generator) < 0.15) & ~terminated
    discounts = 0.97 ** torch.randint(1, 5, (T, N), generator=generator).double()
    done = terminated | truncated
    assert terminated.any()
    assert truncated.any()
    found = generalised_advantages(rewards, values, following, terminated, done, discounts, TRACE)
    for n in range(N):
        columns = [part[:, n].tolist() for part in (rewards, values, following, terminated, done, discounts)]
        assert found.advantages[:, n].tolist() == pytest.approx(reference(*columns), abs=1e-6)
    assert found.returns == pytest.approx(found.advantages + values, abs=1e-12)


class Counting(gym.Env[np.ndarray, np.ndarray]):
    """Shows how many steps an episode has had, pays a tenth of it, and ends after as many as its first action says."""

    observation_space = Box(0.0, 20.0, (1,), dtype=np.float64)
    action_space = Box(-1.0, 1.0, (1,), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        won = bool(action[0] > 0.8)
        return np.full(1, float(self.count)), 0.1 * self.count, False, False, {"success": won}


def test_episodes_follow_one_another_as_in_a_vector_of_gymnasium_without_its_steps_of_resetting() -> None:
    """Its vectors spend a step on resetting (NEXT_STEP), whose action is ignored; without those rows both see the same."""
    suite = Suite("counting", lambda: ("counting",), lambda name: True, lambda name: Counting(), limit=5)

    def make() -> TaskEnvironment:
        return TaskEnvironment("counting", suite, reward="dense", limit=5)

    vector = gym.vector.SyncVectorEnv([make])
    assert vector.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    ours = ChunkedEnvironments("point-reach", 1)
    ours.environments = [make()]
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 1, 1, 1))
    seen, steps = [ours.reset()], []
    for action in actions:
        steps.append(ours.step(action))
        seen.append(steps[-1].observation)
    before, resetting, rows = vector.reset()[0], False, []
    remaining = iter(actions[:, 0])
    while len(rows) < len(actions):
        action = np.zeros((1, 1)) if resetting else next(remaining)
        after, reward, terminated, truncated, _ = vector.step(action)
        if not resetting:
            rows.append([float(part[0]) for part in (before[0], reward, after[0], terminated, truncated)])
        before, resetting = after, bool(terminated[0] or truncated[0])
    here = [
        [float(now[0, 0]), float(s.reward[0]), float(s.final[0, 0]), float(s.terminated[0]), float(s.truncated[0])]
        for now, s in zip(seen, steps, strict=False)
    ]
    np.testing.assert_allclose(here, rows, atol=1e-6)
    v, r, following, terminated, truncated = torch.tensor(rows).double().T
    assert terminated.any()
    assert truncated.any()
    ends, done = terminated.bool(), (terminated + truncated).bool()
    columns = [part[:, None] for part in (r, v, following, ends, done, torch.full_like(r, 0.97))]
    found = generalised_advantages(*columns, TRACE).advantages.flatten()
    values = [part.tolist() for part in (r, v, following, ends, done, torch.full_like(r, 0.97))]
    assert found.tolist() == pytest.approx(reference(*values), abs=1e-6)  # type: ignore[arg-type]


def test_a_time_limit_bootstraps_from_the_final_observation_and_a_success_does_not() -> None:
    one = torch.ones(1, 1)
    limit = generalised_advantages(one, 0 * one, 5 * one, one < 0, one > 0, 0.5 * one, TRACE)
    success = generalised_advantages(one, 0 * one, 5 * one, one > 0, one > 0, 0.5 * one, TRACE)
    assert float(limit.advantages) == pytest.approx(1 + 0.5 * 5)
    assert float(success.advantages) == pytest.approx(1.0)


def test_advantages_that_do_not_vary_teach_nothing() -> None:
    assert normalised(torch.full((50,), 0.3)) is None
    assert normalised(torch.full((50,), float("nan"))) is None
    found = normalised(torch.arange(50.0))
    assert found is not None
    assert (float(found.mean()), float(found.std())) == pytest.approx((0, 1), abs=1e-6)


def test_large_advantages_are_cut_after_normalising() -> None:
    advantages = torch.tensor([-1.0] * 10 + [10.0])
    found = normalised(advantages, 2.0)
    free = normalised(advantages)
    assert found is not None
    assert free is not None
    assert float(free[-1]) > 2.0
    assert float(found[-1]) == 2.0
    torch.testing.assert_close(found[:-1], free[:-1])


def test_explained_variance_of_perfect_constant_and_wrong_critics() -> None:
    returns = torch.arange(10.0)
    assert explained_variance(returns, returns) == pytest.approx(1.0)
    assert explained_variance(torch.zeros(10), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(10)) == 0.0


def test_the_scale_of_rewards_is_the_deviation_of_all_discounted_returns() -> None:
    generator = np.random.default_rng(0)
    scale, seen, running = RewardScale(3), [], np.zeros(3)
    for _ in range(4):
        rewards, done = generator.normal(1, 2, (20, 3)), generator.random((20, 3)) < 0.1
        scale.update(torch.tensor(rewards), torch.full((20, 3), 0.9), torch.tensor(done))
        for r, d in zip(rewards, done, strict=True):
            running = 0.9 * running + r
            seen.append(running.copy())
            running = np.where(d, 0.0, running)
    assert scale.deviation == pytest.approx(np.std(np.array(seen)), rel=1e-6)
    assert float(scale.scale(torch.tensor(1e6))) == 10.0
    again = RewardScale(3)
    again.load_state_dict(scale.state_dict())
    assert again.deviation == scale.deviation


def test_rewards_that_are_always_nothing_stay_nothing() -> None:
    scale = RewardScale(2)
    scale.update(torch.zeros(5, 2), torch.full((5, 2), 0.9), torch.zeros(5, 2, dtype=torch.bool))
    assert scale.deviation == 1.0
    assert torch.equal(scale.scale(torch.zeros(3)), torch.zeros(3))
