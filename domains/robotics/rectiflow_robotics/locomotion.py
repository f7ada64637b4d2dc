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
RECENT = 20
"""Episodes whose mean return says how good the expert is."""
ROLLOUT = 256
# Those that rl-baselines3-zoo publishes for Hopper, with larger rollouts from more environments.
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": ROLLOUT,
    "batch_size": 64,
    "gamma": 0.999,
    "learning_rate": 2e-4,
    "ent_coef": 0.0023,
    "clip_range": 0.2,
    "n_epochs": 5,
    "gae_lambda": 0.98,
    "max_grad_norm": 0.7,
    "vf_coef": 0.8,
}
NETWORK: dict[str, Any] = {"log_std_init": -1.5, "ortho_init": False, "net_arch": [128, 128]}


def check_request(env: str, target: float, steps: int) -> None:
    """Refuse what cannot be trained.

    Raises:
        ConfigError: another task, or fewer steps than one rollout.
        MissingDependency: Stable-Baselines3 is not installed.
    """
    if env not in LOCOMOTION:
        raise ConfigError(f"env={env} is no locomotion task; those are {', '.join(LOCOMOTION)}")
    if steps < ENVIRONMENTS * ROLLOUT or not np.isfinite(target):
        raise ConfigError(
            f"expert_steps={steps}, expert_return={target}: at least {ENVIRONMENTS * ROLLOUT} steps, and a finite return"
        )
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


def _train(env: str, seed: int, target: float, steps: int) -> tuple[Any, Any, int, float]:
    """The trained model, its normalised environments, the steps it took and its recent return."""
    baselines = simulator("stable_baselines3")
    vectors = simulator("stable_baselines3.common.vec_env")
    monitor = simulator("stable_baselines3.common.monitor").Monitor
    torch = simulator("torch")
    torch.set_num_threads(1)
    plain = vectors.DummyVecEnv([lambda: monitor(make_environment(env, reward="dense")) for _ in range(ENVIRONMENTS)])
    plain.seed(seed)
    environments = vectors.VecNormalize(plain, gamma=PPO_SETTINGS["gamma"])
    network = {**NETWORK, "activation_fn": torch.nn.ReLU}
    model = baselines.PPO("MlpPolicy", environments, seed=seed, policy_kwargs=network, device="cpu", **PPO_SETTINGS)
    recent, taken = float("-inf"), 0
    while taken < steps and recent < target:
        model.learn(total_timesteps=20 * ENVIRONMENTS * ROLLOUT, reset_num_timesteps=taken == 0)
        taken = int(model.num_timesteps)
        returns = [float(episode["r"]) for episode in model.ep_info_buffer][-RECENT:]
        recent = sum(returns) / len(returns) if returns else recent
        print(f"expert: {taken} steps, return {recent:.0f}", flush=True)
    return model, environments, taken, recent


def main(arguments: list[str]) -> None:
    """Train, play and write; the process that `collect_locomotion` starts."""
    from rectiflow_robotics.collecting import demonstrate

    env, episodes, seed, path, target, steps = arguments
    model, environments, taken, recent = _train(env, int(seed), float(target), int(steps))
    environments.training = False

    def expert(observation: Array) -> Array:
        # Its own normalisation is undone here: what is stored is what the simulator showed.
        action: Array = model.predict(environments.normalize_obs(observation[None]), deterministic=False)[0][0]
        return np.clip(action, -1, 1)

    found: Demonstrations = demonstrate(
        env,
        expert,
        int(episodes),
        int(seed),
        by=f"local-medium: PPO of Stable-Baselines3, {taken} steps, return {recent:.0f}",
    )
    save(found, Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
