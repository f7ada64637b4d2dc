"""Demonstrations of locomotion by a policy trained here, "local-medium", for nobody ships one. Needs the robotics-sb3 extra.

Stable-Baselines3 seeds the global generators of torch, numpy and python, so it works in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow_robotics.demonstrations import Demonstrations, save
from rectiflow_robotics.environments import make_environment
from rectiflow_robotics.simulators import LOCOMOTION, simulator

Array = NDArray[Any]

ENVIRONMENTS = 4
RECENT = 8
"""Episodes whose mean return says how good the expert is."""
PIECE = 4000
"""Environment steps between two looks at it."""
# Soft actor-critic, arXiv 1812.05905; one update for two environment steps, smaller networks and larger steps than the
# published ones, for an expert of medium strength is wanted soon. On-policy training stayed at 440 in Hopper.
SAC_SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "tau": 0.01,
    "batch_size": 256,
    "buffer_size": 300_000,
    "learning_starts": PIECE,
    "train_freq": 1,
    "gradient_steps": ENVIRONMENTS // 2,
    "policy_kwargs": {"net_arch": [128, 128]},
}


def check_request(env: str, target: float, steps: int) -> None:
    """Refuse what cannot be trained.

    Raises:
        ConfigError: another task, or too few steps.
        MissingDependency: Stable-Baselines3 is not installed.
    """
    if env not in LOCOMOTION:
        raise ConfigError(f"env={env} is no locomotion task; those are {', '.join(LOCOMOTION)}")
    if steps < PIECE or not np.isfinite(target):
        raise ConfigError(f"expert_steps={steps}, expert_return={target}: at least {PIECE} steps, and a finite return")
    if find_spec("stable_baselines3") is None:
        raise MissingDependency(
            f"{env} has no scripted expert, and training one needs stable-baselines3: pip install 'rectiflow[robotics-sb3]'"
        )


def collect_locomotion(env: str, episodes: int, seed: int, path: Path, *, target: float, steps: int) -> Path:
    """Train a policy until its recent episodes return `target`, for at most `steps`, and write `episodes` of it to `path`.

    Raises:
        ConfigError: see `check_request`.
        MissingDependency: see `check_request`.
        DataError: the training failed.
    """
    check_request(env, target, steps)
    command = [sys.executable, "-m", "rectiflow_robotics.locomotion", env, str(episodes), str(seed), str(path)]
    done = subprocess.run([*command, str(target), str(steps)], check=False)  # noqa: S603
    if done.returncode or not path.exists():
        raise DataError(f"training an expert of {env} ended with code {done.returncode}; its own messages stand above")
    return path


def _train(env: str, seed: int, target: float, steps: int) -> tuple[Any, int, float]:
    """The trained model, the steps it took and its recent return."""
    baselines = simulator("stable_baselines3")
    vectors = simulator("stable_baselines3.common.vec_env")
    monitor = simulator("stable_baselines3.common.monitor").Monitor
    simulator("torch").set_num_threads(1)
    made = vectors.DummyVecEnv([lambda: monitor(make_environment(env, reward="dense")) for _ in range(ENVIRONMENTS)])
    made.seed(seed)
    model = baselines.SAC("MlpPolicy", made, seed=seed, device="cpu", **SAC_SETTINGS)
    recent, taken = float("-inf"), 0
    while taken < steps and recent < target:
        model.learn(total_timesteps=PIECE, reset_num_timesteps=taken == 0)
        taken = int(model.num_timesteps)
        returns = [float(episode["r"]) for episode in model.ep_info_buffer][-RECENT:]
        recent = sum(returns) / len(returns) if returns else recent
        print(f"expert: {taken} steps, return {recent:.0f}", flush=True)
    return model, taken, recent


def main(arguments: list[str]) -> None:
    """Train, play and write; the process that `collect_locomotion` starts."""
    from rectiflow_robotics.collecting import demonstrate

    env, episodes, seed, path, target, steps = arguments
    model, taken, recent = _train(env, int(seed), float(target), int(steps))

    def expert(observation: Array) -> Array:
        action: Array = model.predict(observation, deterministic=False)[0]
        return action

    found: Demonstrations = demonstrate(
        env,
        expert,
        int(episodes),
        int(seed),
        by=f"local-medium: SAC of Stable-Baselines3, {taken} steps, return {recent:.0f}",
    )
    save(found, Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
