"""`rectiflow collect robotics`: successful episodes of a scripted expert, kept in the cache with what made them."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from rectiflow.cache import cache_folder
from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError, DataError
from rectiflow_robotics.chunks import episode_seed
from rectiflow_robotics.demonstrations import UNITS, Data, Demonstrations, check, load, save
from rectiflow_robotics.environments import TaskEnvironment, make_environment, suite_of
from rectiflow_robotics.experts import Expert, expert_of
from rectiflow_robotics.locomotion import collect_locomotion

Array = NDArray[Any]

ATTEMPTS = 5
"""Episodes tried for each one wanted; every scripted expert measured succeeds in more than half."""
PACKAGES = (
    "gymnasium",
    "metaworld",
    "gymnasium-robotics",
    "gym-pusht",
    "stable-baselines3",
    "mujoco",
    "numpy",
)


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Collect demonstrations, or find them in the cache, and say where they are and what they hold.

    Raises:
        ConfigError: an unknown task, one without an expert, or a bad number.
        DataError: an expert that keeps failing.
        MissingDependency: the simulator is not installed.
        StorageError: the file cannot be written.
    """
    path = collected(
        config.env,
        config.episodes,
        config.seed,
        noise=config.noise,
        out=config.out,
        training=(config.expert_return, config.expert_steps),
    )
    found = load(path)
    print(
        f"{found.environment}: {len(found)} episodes, {len(found.actions)} steps, {found.lengths.mean():.0f} each, of "
        f"{found.provenance['attempts']} attempts; mean return {found.returns.mean():.4g}; by {found.provenance['by']}"
    )
    print(f"demonstrations: {path}")
    print(f"next: rectiflow train robotics data=file data.env={found.environment} data.path={path}")
    return path


def from_expert(env: str, episodes: int, seed: int, chunk: int) -> Data:
    """Demonstrations by the scripted expert, in chunks; out of the cache, or collected now.

    Raises:
        RectiflowError: see `collected`.
    """
    return Data(load(collected(env, episodes, seed)), chunk)


def collected(
    env: str,
    episodes: int,
    seed: int,
    *,
    noise: float = 0.0,
    out: str = "",
    training: tuple[float, int] = (1000.0, 60_000),
) -> Path:
    """The file of an expert's demonstrations; collected only where it does not exist yet.

    Args:
        env: name of the task.
        episodes: successful episodes.
        seed: decides starts and goals.
        noise: standard deviation of what is added to the actions that are executed; those stored are the expert's own.
        out: folder; the cache by default.
        training: for locomotion, the return at which the expert's training ends, and the most environment steps that it may take.

    Raises:
        ConfigError: an unknown task, one without an expert, or a bad number.
        DataError: an expert that keeps failing.
        MissingDependency: the simulator is not installed.
        StorageError: the file cannot be written.
    """
    if episodes < 1 or seed < 0 or not 0 <= noise <= 1:
        raise ConfigError(
            f"episodes={episodes}, seed={seed}, noise={noise}: at least 1 episode, a seed of at least 0, noise in [0, 1]"
        )
    trained = suite_of(env).name == "locomotion"
    recipe: dict[str, Any] = {
        "environment": env,
        "episodes": episodes,
        "seed": seed,
        "noise": noise,
        "versions": versions(env),
    }
    if trained:
        recipe["training"] = ("SAC", *training)
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(out) if out else cache_folder("robotics")
    path = folder / f"{env}-{episodes}-{key}.npz"
    if path.exists():
        return path
    if trained:
        return collect_locomotion(env, episodes, seed, path, target=training[0], steps=training[1])
    return save(demonstrate(env, expert_of(env), episodes, seed, noise=noise, by="scripted expert"), path)


def versions(env: str) -> dict[str, str]:
    """Versions of the packages that a task's episodes depend on."""
    suite = suite_of(env)
    found = {}
    for package in PACKAGES if suite.package else ("numpy",):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def demonstrate(env: str, expert: Expert, episodes: int, seed: int, *, noise: float = 0.0, by: str) -> Demonstrations:
    """Episodes of an expert; those without success are left out, where a task has success.

    Attempt k starts as (seed, k) decides.

    Raises:
        DataError: too few successes in ATTEMPTS times as many episodes.
    """
    environment = make_environment(env, reward="dense")
    succeeds = environment.suite.succeeds
    kept: list[tuple[Array, Array, bool, float]] = []
    attempts = 0
    while len(kept) < episodes:
        if attempts == ATTEMPTS * episodes:
            raise DataError(
                f"env={env}: {len(kept)} of {attempts} episodes of the {by} succeeded, {episodes} were wanted; "
                "lower noise, or check the simulator's version"
            )
        episode = _episode(environment, expert, episode_seed(seed, attempts), noise)
        attempts += 1
        if episode[2] or not succeeds:
            kept.append(episode)
    observations, actions, success, returns = zip(*kept, strict=True)
    found = Demonstrations(
        env,
        np.concatenate(observations),
        np.concatenate(actions),
        np.array([len(part) for part in actions], np.int64),
        np.array(success, bool),
        np.array(returns, np.float64),
        {
            "units": UNITS,
            "succeeds": environment.suite.succeeds,
            "by": by,
            "seed": seed,
            "noise": noise,
            "episodes": episodes,
            "attempts": attempts,
            "versions": versions(env),
        },
    )
    return check(found, f"demonstrations of {env}")


def _episode(environment: TaskEnvironment, expert: Expert, seed: int, noise: float) -> tuple[Array, Array, bool, float]:
    """Observations (T, …), the expert's actions (T, Da), success and return of one episode."""
    draws = np.random.default_rng(seed)
    observation, info = environment.reset(seed=seed)
    seen, done, total = [], [], 0.0
    while True:
        action = np.clip(expert(info.get("state", observation)), -1, 1).astype(np.float32)
        seen.append(observation)
        done.append(action)
        executed = action + noise * draws.standard_normal(action.shape)
        observation, reward, terminated, truncated, info = environment.step(executed)
        total += reward
        if terminated or truncated:
            return np.stack(seen), np.stack(done), bool(info["success"]), total
