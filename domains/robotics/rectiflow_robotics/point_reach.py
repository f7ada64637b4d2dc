"""A point in the plane that is to reach a goal: the smallest task with all that a robot's has, and no simulator."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

Array = NDArray[Any]

STEP = 0.1
RADIUS = 0.05
PICTURE = 32


class PointReach(gym.Env[Array, Array]):
    """Position and goal in [-1, 1]^2; an action in [-1, 1]^2 moves the point by up to STEP along each axis.

    An observation is (4,), position then goal; with `pixels` a picture (3, 32, 32) of bytes, the point red and the goal green.
    The reward is the negative distance that is left; success is a distance of at most RADIUS. `info["state"]` is always (4,).
    """

    def __init__(self, *, pixels: bool = False) -> None:
        self.pixels = pixels
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        space = Box(0, 255, (3, PICTURE, PICTURE), np.uint8) if pixels else Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = space
        self.position = np.zeros(2)
        self.goal = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start at a random place of the left, the goal at a random place of the right."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform([-1, -1], [-0.2, 1])
        self.goal = self.np_random.uniform([0.2, -1], [1, 1])
        return self._observation(), {"state": self._state()}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move the point."""
        self.position = np.clip(self.position + STEP * np.asarray(action, np.float64), -1, 1)
        distance = float(np.linalg.norm(self.goal - self.position))
        return self._observation(), -distance, False, False, {"success": distance <= RADIUS, "state": self._state()}

    def _observation(self) -> Array:
        if self.pixels:
            return draw_plane(self.position, self.goal, PICTURE).transpose(2, 0, 1)
        return self._state()

    def _state(self) -> Array:
        return np.concatenate([self.position, self.goal]).astype(np.float32)


def reach(position: Array, goal: Array) -> Array:
    """The action that goes straight for the goal and stops there, in closed form."""
    return np.clip((goal - position) / STEP, -1, 1)


def draw_plane(position: Array, goal: Array, size: int) -> Array:
    """The plane (size, size, 3) as bytes: white, a green disc at the goal and a red one, on top, at the point."""
    axis = (np.arange(size) + 0.5) / size * 2.2 - 1.1
    columns, rows = np.meshgrid(axis, -axis)
    picture = np.full((size, size, 3), 255, np.uint8)
    for place, colour in ((goal, (40, 160, 80)), (position, (200, 40, 40))):
        picture[np.hypot(columns - place[0], rows - place[1]) <= 0.1] = colour
    return picture
