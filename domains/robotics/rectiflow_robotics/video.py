"""`rectiflow video robotics`: a success and a failure of a run's policy, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError
from rectiflow.trained import open_run
from rectiflow_robotics.domain import Robotics
from rectiflow_robotics.evaluating import evaluation_environments
from rectiflow_robotics.filming import film, filmstrip, write_film
from rectiflow_robotics.rollout import Episode, Policy, rollout


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Play episodes, film one that succeeds and one that does not, and return the folder.

    Raises:
        ConfigError: a bad run, or no episodes.
        MissingDependency: the simulator or the encoder is not installed.
        StorageError: a film cannot be written.
    """
    if config.episodes < 1 or config.steps < 1 or not 64 <= config.size <= 640:
        raise ConfigError(
            f"episodes={config.episodes}, steps={config.steps}, size={config.size}: at least 1, at least 1, and 64 to 640"
        )
    trained = open_run(spec, Path(config.run), config.weights)
    domain = trained.domain
    if not isinstance(domain, Robotics):
        raise ConfigError(f"run={config.run} is not a run of robotics")
    policy = domain.policy(trained.flow, steps=config.steps, method=config.method, device=trained.device)
    folder = Path(config.out) if config.out else trained.folder / "videos"
    films = record(policy, folder, episodes=config.episodes, seed=config.seed, size=config.size)
    if not films:
        print(
            f"no video: {domain.environment} needs a renderer, and neither egl nor osmesa works here; "
            "apt-get install libosmesa6, or use a machine with a graphics driver"
        )
    return folder


def record(policy: Policy, folder: Path, *, episodes: int, seed: int, size: int = 320) -> list[Path]:
    """Film a success and a failure among the episodes of a seed, as far as there are, with a strip of both.

    For a task without success the best and the worst return are filmed. Nothing is written where nothing can be drawn.

    Raises:
        MissingDependency: the simulator or the encoder is not installed.
        StorageError: a film cannot be written.
    """
    environments = evaluation_environments(policy.environment, episodes)
    played = rollout(policy, environments, episodes=episodes, seed=seed, record=True)
    written, strips = [], {}
    for name, episode in chosen(played, succeeds=environments[0].suite.succeeds).items():
        shot = film(policy.environment, episode, seed, size=size)
        if shot is None:
            continue
        strips[name] = shot.frames
        written.append(write_film(shot.frames, folder / f"{name}.mp4"))
        print(f"{name}: episode {episode.number}, {episode.length} steps, {written[-1]} ({shot.by})", flush=True)
    if strips:
        filmstrip(strips).save(folder / "episodes.png")
    return written


def chosen(played: Sequence[Episode], *, succeeds: bool) -> dict[str, Episode]:
    """Which episodes are worth a film, by name."""
    if not succeeds:
        ranked = sorted(played, key=lambda episode: episode.total)
        return {"best": ranked[-1], "worst": ranked[0]}
    found: dict[str, Episode] = {}
    for episode in played:
        found.setdefault("success" if episode.success else "failure", episode)
    return {name: found[name] for name in ("success", "failure") if name in found}
