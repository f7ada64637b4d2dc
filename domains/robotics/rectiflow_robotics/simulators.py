"""Where tasks come from: a point in the plane, and simulators, imported when a task of theirs is made."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rectiflow.errors import MissingDependency
from rectiflow_robotics.point_reach import PointReach

Array = NDArray[Any]
View = Callable[[Array], dict[str, Array]]
Step = tuple[Array, float, bool, bool, dict[str, Any]]

CRASHES = (RuntimeError, ValueError, ArithmeticError, AssertionError, OSError, gym.error.Error)
LOCOMOTION = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")
FETCH = ("FetchReach-v4", "FetchPush-v4", "FetchPickAndPlace-v4")
POINT = ("point-reach", "point-reach-pixels")
PUSH_T = ("PushT-v0",)
OGBENCH = tuple(f"cube-single-singletask-task{number}-v0" for number in range(1, 6))


class Viewpoint(NamedTuple):
    """A camera: the place it looks at, its distance in metres, and its angles in degrees."""

    place: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Suite:
    """Tasks of one simulator.

    Attributes:
        name: of the suite.
        names: its tasks; none if it is not installed.
        has: whether a name is, by its form, a task of this suite.
        make: the simulator's environment of a name, whose `info["success"]` says whether the task is done.
        limit: steps of an episode.
        package: what is installed for it, for provenance; "" for nothing.
        succeeds: whether tasks have success; otherwise only returns count.
        camera: from where the simulator's renderer looks, by name or by place; None without a renderer.
        view: places in the plane, by name, that an observation tells, for drawing without a renderer.
        crashes: what its environments may raise.
    """

    name: str
    names: Callable[[], tuple[str, ...]]
    has: Callable[[str], bool]
    make: Callable[[str], gym.Env[Array, Array]]
    limit: int
    package: str = ""
    succeeds: bool = True
    camera: str | Viewpoint | None = None
    view: View | None = None
    crashes: tuple[type[Exception], ...] = CRASHES


def simulator(module: str, extra: str = "robotics") -> Any:
    """An optional package, imported; `extra` brings it.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside simulators are not the user's
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"{module} does not import ({error}); simulated tasks need it: pip install 'rectiflow[{extra}]'"
        ) from error


class Quaternion:
    """The quaternion (x, y, z, w) of a rotation matrix, in scipy's order and with its sign.

    Stands for scipy's Rotation where Meta-World makes an observation: its checks took a fifth of a step.
    Source: S. W. Shepperd, "Quaternion from rotation matrix", 1978.
    """

    def __init__(self, values: Array) -> None:
        self.values = values

    @classmethod
    def from_matrix(cls, matrix: Array) -> Quaternion:
        """Of an orthonormal matrix (3, 3)."""
        (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
        trace = a + e + i
        largest = max(a, e, i, trace)
        if largest == a:
            q = (1 - trace + 2 * a, b + d, c + g, h - f)
        elif largest == e:
            q = (b + d, 1 - trace + 2 * e, f + h, c - g)
        elif largest == i:
            q = (c + g, f + h, 1 - trace + 2 * i, d - b)
        else:
            q = (h - f, c - g, d - b, 1 + trace)
        return cls(np.array(q) / math.hypot(*q))

    def as_quat(self) -> Array:
        """(4,)."""
        return self.values


class GoalObservable(gym.Wrapper[Array, Array, Array, Array]):
    """A Meta-World task that tells its goal, and whose seed decides goal and objects.

    The package draws them from numpy's global generator, or from a task list; here `reset(seed=…)` alone does.
    """

    def __init__(self, name: str) -> None:
        package = simulator("metaworld")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.inner: Any = package.ALL_V3_ENVIRONMENTS[name]()
        super().__init__(self.inner)
        self.inner._partially_observable = False
        self.inner.__dict__.pop("sawyer_observation_space", None)  # cached for an observation without the goal
        self.inner._set_task_called = True
        self.inner._freeze_rand_vec = False
        self.inner.seeded_rand_vec = True
        self.inner.touching_object = self._touching
        plain = type(self.inner)._get_quat_objects
        quick = FunctionType(plain.__code__, {**plain.__globals__, "Rotation": Quaternion}, closure=plain.__closure__)
        self.inner._get_quat_objects = MethodType(quick, self.inner)
        space = self.inner.sawyer_observation_space
        self.observation_space = Box(space.low, space.high, dtype=np.float64)

    def _touching(self, geom: int) -> bool:
        """Whether both pads of the gripper press on a geometry.

        The package walks through all contacts in Python, twice a step, which costs more than the simulation itself.
        """
        data = self.inner.data
        pairs = data.contact.geom
        touched = (pairs == geom).any(1)
        pads = [data.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]
        forces = [data.efc_force[data.contact.efc_address[touched & (pairs == pad).any(1)]].sum() for pad in pads]
        return bool(min(forces) > 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode that the seed decides."""
        if seed is not None:
            self.inner.seed(seed)
        self.inner._did_see_sim_exception = False
        observation, info = self.inner.reset()
        return observation, dict(info)

    def step(self, action: Array) -> Step:
        """Take one action; an unstable simulation shows as an observation that is not finite."""
        observation, reward, terminated, truncated, info = self.inner.step(action)
        if self.inner._did_see_sim_exception:
            observation = np.full_like(observation, np.nan)
        return observation, float(reward), terminated, truncated, {**info, "success": bool(info["success"])}


class PushT(gym.Wrapper[Array, Array, Array, Array]):
    """PushT with its success under the name that all tasks use."""

    def __init__(self) -> None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame would look for a screen
        simulator("gym_pusht", "robotics-pusht")
        super().__init__(
            gym.make("gym_pusht/PushT-v0", obs_type="state", disable_env_checker=True, max_episode_steps=10**9)
        )

    def step(self, action: Array) -> Step:
        """Take one action."""
        return _with_success(self.env.step(action), "is_success")


class OGBenchTask(gym.Wrapper[Array, Array, Array, Array]):
    """A task of OGBench whose goal is always the same, as its observations do not tell it (arXiv 2410.20092)."""

    def __init__(self, name: str) -> None:
        gym.register_envs(simulator("ogbench", "robotics-ogbench"))
        super().__init__(gym.make(name, disable_env_checker=True, max_episode_steps=10**9))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; what the simulator says of its inner state is left out."""
        return self.env.reset(seed=seed)[0], {}

    def step(self, action: Array) -> Step:
        """Take one action."""
        return _with_success(self.env.step(action), "success")


class FlatGoal(gym.ObservationWrapper[Array, Array, dict[str, Array]]):
    """A goal task whose observation dict becomes one vector: observation, then desired goal."""

    def __init__(self, env: gym.Env[dict[str, Array], Array]) -> None:
        super().__init__(env)
        parts: Any = env.observation_space
        size = parts["observation"].shape[0] + parts["desired_goal"].shape[0]
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)

    def observation(self, observation: dict[str, Array]) -> Array:
        """Observation and desired goal in a row."""
        return np.concatenate([observation["observation"], observation["desired_goal"]])

    def step(self, action: Array) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Take one action; `success` under the name that all tasks use."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "success": bool(info["is_success"])}


def _with_success(step: tuple[Array, Any, bool, bool, dict[str, Any]], name: str) -> Step:
    """What a simulator's step gave, of its `info` nothing but the success that stands there under a name."""
    observation, reward, terminated, truncated, info = step
    return observation, float(reward), terminated, truncated, {"success": bool(info[name])}


def _metaworld_names() -> tuple[str, ...]:
    try:
        return tuple(simulator("metaworld").ALL_V3_ENVIRONMENTS)
    except MissingDependency:
        return ()


def _has_metaworld(name: str) -> bool:
    return name.endswith("-v3") and name.islower() and name in simulator("metaworld").ALL_V3_ENVIRONMENTS


def _fetch(name: str) -> gym.Env[Array, Array]:
    gym.register_envs(simulator("gymnasium_robotics"))
    return FlatGoal(gym.make(name, disable_env_checker=True, max_episode_steps=10**9))


def _locomotion(name: str) -> gym.Env[Array, Array]:
    simulator("mujoco")
    return gym.make(name, disable_env_checker=True, max_episode_steps=10**9)


SUITES = (
    Suite(
        "point",
        lambda: POINT,
        lambda name: name in POINT,
        lambda name: PointReach(pixels=name.endswith("pixels")),
        limit=40,
        view=lambda o: {"hand": o[:2], "goal": o[2:4]} if o.ndim == 1 else {},
    ),
    Suite(
        "metaworld",
        _metaworld_names,
        _has_metaworld,
        GoalObservable,
        limit=200,
        package="metaworld",
        camera=Viewpoint((0.0, 0.65, 0.1), distance=1.2, azimuth=-60, elevation=-30),
        view=lambda o: {"hand": o[:2], "object": o[4:6], "goal": o[36:38]},
    ),
    Suite(
        "fetch",
        lambda: FETCH,
        lambda name: name in FETCH,
        _fetch,
        limit=50,
        package="gymnasium-robotics",
        camera=Viewpoint((1.3, 0.75, 0.45), distance=1.4, azimuth=132, elevation=-20),
        view=lambda o: {"hand": o[:2], **({"object": o[3:5]} if len(o) > 13 else {}), "goal": o[-3:-1]},
    ),
    Suite(
        "pusht",
        lambda: PUSH_T,
        lambda name: name in PUSH_T,
        lambda name: PushT(),
        limit=300,
        package="gym-pusht",
        view=lambda o: {"hand": o[:2], "object": o[2:4]},
    ),
    Suite(
        "ogbench",
        lambda: OGBENCH,
        lambda name: name in OGBENCH,
        OGBenchTask,
        limit=200,
        package="ogbench",
        camera="front",
    ),
    Suite(
        "locomotion",
        lambda: LOCOMOTION,
        lambda name: name in LOCOMOTION,
        _locomotion,
        limit=1000,
        package="gymnasium",
        camera="track",
        succeeds=False,
    ),
)
