"""Scripted experts: closed form for the point, those of Meta-World, and controllers for Fetch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_robotics.environments import Description, suite_of
from rectiflow_robotics.point_reach import reach
from rectiflow_robotics.rollout import Policy
from rectiflow_robotics.simulators import simulator

Array = NDArray[Any]
Expert = Callable[[Array], Array]
"""Observation, or the state behind a picture -> action in [-1, 1]; experts keep nothing in mind between steps."""

FETCH_STEP = 0.05  # metres that the gripper's target moves for an action of 1
ABOVE = np.array([0.0, 0.0, 0.06])


def expert_of(name: str) -> Expert:
    """The scripted expert of a task.

    Raises:
        ConfigError: an unknown task, or one without an expert.
        MissingDependency: its simulator is not installed.
    """
    suite = suite_of(name)
    if suite.name == "point":
        return lambda observation: reach(observation[:2], observation[2:])
    if suite.name == "metaworld":
        return _metaworld(name)
    if name in FETCH_EXPERTS:
        return FETCH_EXPERTS[name]
    trains = f"`rectiflow collect robotics env={name}` trains one, or " if suite.name == "locomotion" else ""
    raise ConfigError(f"env={name} has no scripted expert; {trains}give demonstrations with data=file data.path=<npz>")


def _metaworld(name: str) -> Expert:
    policy = simulator("metaworld.policies").ENV_POLICY_MAP[name]()

    def expert(observation: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns at actions beyond 1, which are clipped below
            action: Array = policy.get_action(observation.astype(np.float64))
        return np.clip(action, -1, 1)

    return expert


def _towards(place: Array, target: Array, gripper: float) -> Array:
    return np.append(np.clip((target - place) / FETCH_STEP, -1, 1), gripper)


def fetch_reach(observation: Array) -> Array:
    """Straight to the goal."""
    return _towards(observation[:3], observation[-3:], 0.0)


def fetch_push(observation: Array) -> Array:
    """Behind the object, seen from the goal, and then along the line between them."""
    hand, box, goal = observation[:3], observation[3:6], observation[-3:]
    line = (goal - box)[:2]
    line = line / max(float(np.linalg.norm(line)), 1e-6)
    behind = box - np.append(0.07 * line, 0.0)
    offset = (hand - box)[:2]
    along = float(offset @ line)
    aside = float(np.linalg.norm(offset - along * line))
    low = hand[2] < box[2] + 0.02
    if along < 0 and aside < 0.02 and low:
        return _towards(hand, np.append(goal[:2] - 0.045 * line, box[2]), 0.0)
    if np.linalg.norm((hand - behind)[:2]) < 0.02:
        return _towards(hand, behind, 0.0)
    height = box[2] + 0.08
    high = np.append(behind[:2] if hand[2] > height - 0.03 else hand[:2], height)
    return _towards(hand, high, 0.0)


def fetch_pick_and_place(observation: Array) -> Array:
    """Above the object with an open gripper, down, close, and to the goal."""
    hand, box, goal = observation[:3], observation[3:6], observation[-3:]
    width = float(observation[9] + observation[10])
    if np.linalg.norm(hand - box) < 0.02:
        return _towards(hand, goal if width < 0.055 else box, -1.0)
    if np.linalg.norm((hand - box)[:2]) < 0.015:
        return _towards(hand, box if width > 0.08 else box + ABOVE, 1.0)
    return _towards(hand, box + ABOVE, 1.0)


FETCH_EXPERTS: dict[str, Expert] = {
    "FetchReach-v4": fetch_reach,
    "FetchPush-v4": fetch_push,
    "FetchPickAndPlace-v4": fetch_pick_and_place,
}


def expert_policy(task: Description) -> Policy | None:
    """The scripted expert as a policy of single actions; None where there is none, or where it would have to see a picture."""
    if len(task.observation) > 1:
        return None
    try:
        expert = expert_of(task.name)
    except ConfigError:
        return None

    def act(observations: Tensor, noise: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(expert(seen)).float()[None] for seen in observations.numpy()])

    return Policy(task.name, task.observation, (1, task.actions), act)


def random_policy(task: Description) -> Policy:
    """Actions uniform in [-1, 1]."""
    return Policy(task.name, task.observation, (1, task.actions), lambda _, noise: torch.erf(noise / 2**0.5))
