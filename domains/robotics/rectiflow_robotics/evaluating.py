"""Figures of episodes: success with its interval, return, length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rectiflow.records import Metric
from rectiflow_robotics.environments import TaskEnvironment, make_environment
from rectiflow_robotics.rollout import Episode, Policy, rollout

SLOTS = 4
"""Environments side by side: building one costs as much as an episode, and a larger batch hardly helps a small network."""
QUANTILE = 1.959964  # of the normal law, for 95 %

SUCCESS = (
    Metric("success", "success", "higher", primary=True),
    Metric("success_low", "95% from", "higher"),
    Metric("success_high", "to", "higher"),
    Metric("length", "steps", "lower"),
    Metric("return", "return", "higher"),
    Metric("broken", "broken", "lower"),
)
RETURN = (
    Metric("return", "return", "higher", primary=True),
    Metric("return_low", "95% from", "higher"),
    Metric("return_high", "to", "higher"),
    Metric("length", "steps", "higher"),
    Metric("broken", "broken", "lower"),
)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (E. B. Wilson, 1927): as near 0 and 1 as it should be, unlike mean ± 1.96 errors."""
    share, z = successes / count, QUANTILE
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half if successes else 0.0, centre + half if successes < count else 1.0


def summarise(episodes: Sequence[Episode], *, succeeds: bool) -> dict[str, float]:
    """Figures of episodes, by the names of SUCCESS, or of RETURN for tasks without success."""
    totals = np.array([episode.total for episode in episodes])
    figures = {
        "return": float(totals.mean()),
        "length": float(np.mean([episode.length for episode in episodes])),
        "broken": float(sum(episode.broken for episode in episodes)),
    }
    if succeeds:
        wins = sum(episode.success for episode in episodes)
        low, high = wilson(wins, len(episodes))
        return {"success": wins / len(episodes), "success_low": low, "success_high": high, **figures}
    error = QUANTILE * float(totals.std(ddof=1)) / math.sqrt(len(totals)) if len(totals) > 1 else math.nan
    return {**figures, "return_low": figures["return"] - error, "return_high": figures["return"] + error}


def evaluation_environments(name: str, episodes: int) -> list[TaskEnvironment]:
    """Environments to evaluate in, with the task's own rewards."""
    return [make_environment(name, reward="dense") for _ in range(min(SLOTS, episodes))]


def evaluate_policy(
    policy: Policy, *, episodes: int, seed: int, environments: Sequence[TaskEnvironment] | None = None
) -> dict[str, float]:
    """Figures of a policy over the episodes of a seed.

    Args:
        policy: what acts, without noise beyond its x0.
        episodes: how many; 100 give success to ±10 points.
        seed: of the episodes.
        environments: to use again; made anew by default.

    Raises:
        ConfigError: environments of another task, or no episodes.
        MissingDependency: the simulator is not installed.
    """
    environments = environments or evaluation_environments(policy.environment, episodes)
    found = rollout(policy, environments, episodes=episodes, seed=seed)
    return summarise(found, succeeds=environments[0].suite.succeeds)
