"""`rectiflow finetune robotics`: a cloned policy improved by acting; keeps the best, stops on decline, and can be resumed."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError, Interrupted
from rectiflow.flow import Flow
from rectiflow.records import write_metrics
from rectiflow.runs import create_run
from rectiflow.trained import Trained, open_run
from rectiflow.training.checkpoint import Checkpoint, clean_checkpoints, load_latest, save_checkpoint
from rectiflow.training.interrupts import Interrupts
from rectiflow.training.logs import MetricsFile
from rectiflow.training.processes import locked
from rectiflow.training.randomness import stream_seed
from rectiflow_robotics.curves import draw_curves
from rectiflow_robotics.environments import TaskEnvironment
from rectiflow_robotics.evaluating import evaluation_environments, summarise
from rectiflow_robotics.rollout import Episode, rollout
from rectiflow_robotics.trainers import PolicyGradient, Trainer, domain_of

DECLINE = 3.0
"""Standard errors, of the paired difference, by which a policy that has declined is worse than the best one."""
KEEP = 2
METRICS = "metrics.jsonl"


@dataclass
class Progress:
    """How far a run is: iterations, environment steps, seconds of work, evaluations in decline on end, and the best so far.

    `scores` are those of the best policy in the held-out episodes.
    """

    iteration: int = 0
    steps: int = 0
    seconds: float = 0.0
    declines: int = 0
    best_iteration: int = 0
    stopped: bool = False
    scores: list[float] = field(default_factory=list)


@dataclass
class Session:
    """A run that is being fine-tuned."""

    folder: Path
    config: DictConfig
    trained: Trained
    trainer: Trainer
    sampler: str
    progress: Progress
    best: dict[str, Tensor]
    environments: list[TaskEnvironment]

    def play(self, weights: dict[str, Tensor], stream: str, episodes: int) -> list[Episode]:
        """The episodes of a stream, played without noise by the policy of these weights."""
        network = copy.deepcopy(self.trainer.network).eval()
        network.load_state_dict(weights)
        domain = domain_of(self.trained)
        policy = domain.policy(self.flow_of(network), steps=int(self.config.k), method=self.sampler)
        seed = stream_seed(int(self.config.seed), stream) % 2**31
        return rollout(policy, self.environments, episodes=episodes, seed=seed)

    def held_out(self) -> list[float]:
        """What counts of each held-out episode, as the present policy plays it: success, or the return where there is none."""
        succeeds = self.environments[0].suite.succeeds
        episodes = self.play(self.trainer.deployed(), "held-out", int(self.config.episodes))
        return [float(episode.success) if succeeds else episode.total for episode in episodes]

    def flow_of(self, network: torch.nn.Module) -> Flow:
        """A network read as this run's flow."""
        flow = self.trained.domain.flow(network)
        if self.trained.config.get("distill"):
            flow = self.trained.domain.create(self.trained.config.distill.method).student(flow)
        return flow


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Fine-tune a run's policy into a new run and return its folder; continues where it stopped.

    Raises:
        ConfigError: a bad run, algorithm or number.
        ChainMismatch: a likelihood that is not the sampler's.
        NonFiniteError: updates that are not finite.
        Interrupted: SIGTERM or SIGINT came; the iteration was finished and saved.
    """
    _check(config)
    trained = open_run(spec, Path(config.run), config.weights)
    folder = Path(str(config.out), spec.name, str(config.name))
    if folder.resolve() == trained.folder.resolve():
        raise ConfigError(f"name={config.name} is the folder of the run itself; choose another name=")
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    session = _open(trained, config, folder)
    with ExitStack() as stack:
        stack.callback(session.trainer.close)
        stack.enter_context(locked(folder))
        interrupts = stack.enter_context(Interrupts())
        create_run(folder, run_config(trained, config, folder))
        _resume(session, before)
        log = MetricsFile(folder / METRICS, session.progress.iteration)
        stack.callback(log.close)
        _loop(session, log, interrupts)
        _finish(session, before)
    return folder


def _check(config: DictConfig) -> None:
    for name in ("k", "iterations", "envs", "chunks", "evaluate_every", "final_episodes", "restart_every"):
        if config[name] < 1:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least 1")
    if config.checkpoint_every % config.restart_every:
        raise ConfigError(
            f"checkpoint_every={config.checkpoint_every} is no multiple of restart_every={config.restart_every}; "
            "a run can only be resumed where its episodes begin anew"
        )
    if config.episodes < 2 or config.warm_up < 0:
        raise ConfigError(
            f"episodes={config.episodes}, warm_up={config.warm_up}: at least 2 held-out episodes and no negative warm-up"
        )


def run_config(trained: Trained, config: DictConfig, folder: Path) -> DictConfig:
    """The configuration of the new run: the old one's with what fine-tuning changes, so that every verb reads it."""
    written: Any = OmegaConf.to_container(trained.config)
    given: Any = OmegaConf.to_container(config)
    options = {key: value for key, value in given.items() if key not in ("name", "out")}
    teacher = options["run"] = os.path.relpath(trained.folder, folder)
    method = "jump" if trained.flow.average else "euler"
    written |= {
        "name": config.name,
        "out": config.out,
        "teacher": teacher,
        "sampling": {**written["sampling"], "method": method, "steps": config.k, "guidance": 1.0},
        "evaluation": {**written["evaluation"], "samplers": [f"{method}-{config.k}"], "guidance": 1.0},
        "finetune": options,
    }
    return DictConfig(written)


def _open(trained: Trained, config: DictConfig, folder: Path) -> Session:
    trainer = _trainer(trained, config)
    return Session(
        folder=folder,
        config=config,
        trained=trained,
        trainer=trainer,
        sampler="jump" if trained.flow.average else "euler",
        progress=Progress(),
        best={},
        environments=evaluation_environments(domain_of(trained).environment, int(config.final_episodes)),
    )


def _trainer(trained: Trained, config: DictConfig) -> Trainer:
    if config.algorithm == "fql":
        from rectiflow_robotics.fql import FQL

        return FQL(trained, config)
    return PolicyGradient(trained, config)


def _resume(session: Session, before: dict[str, Tensor]) -> None:
    """Go on from the newest checkpoint; a new run first plays the held-out episodes as they are."""
    clean_checkpoints(session.folder)
    found = load_latest(session.folder)
    if found is None:
        session.best = before
        session.progress.scores = session.held_out()
        return
    session.trainer.network.load_state_dict(found.model)
    session.trainer.load_state_dict(found.state["trainer"])
    session.progress = Progress(**found.state["progress"])
    session.best = found.ema
    print(f"continuing after iteration {session.progress.iteration}", flush=True)


def _loop(session: Session, log: MetricsFile, interrupts: Interrupts) -> None:
    config, progress = session.config, session.progress
    if not progress.iteration:
        log.write({"step": 0, "env_steps": 0, "seconds": 0.0, "held_out": _mean(progress.scores)})
        print(f"before: held-out {_mean(progress.scores):.3f}", flush=True)
    while progress.iteration < int(config.iterations) and not progress.stopped:
        started = time.perf_counter()
        restart = progress.iteration % int(config.restart_every) == 0
        figures = session.trainer.iterate(progress.iteration, restart=restart)
        progress.iteration += 1
        progress.steps += int(figures.pop("steps"))
        progress.seconds += time.perf_counter() - started
        last = progress.iteration == int(config.iterations)
        if progress.iteration % int(config.evaluate_every) == 0 or last:
            figures |= judge(session, session.held_out())
        log.write({"step": progress.iteration, "env_steps": progress.steps, "seconds": progress.seconds, **figures})
        print(_line(session, figures), flush=True)
        stopping = last or progress.stopped or bool(interrupts.received)
        if progress.iteration % int(config.checkpoint_every) == 0 or last or progress.stopped:
            _save(session)
        if "held_out" in figures and not (last or progress.stopped):
            draw_curves(session.folder, chains=session.trainer.chains())
        if stopping and interrupts.received and not last:
            raise Interrupted(
                f"stopped by signal {interrupts.received} after iteration {progress.iteration}; the same command goes on "
                "from the last checkpoint",
                interrupts.received,
            )


def judge(session: Session, scores: list[float]) -> dict[str, float]:
    """Compare the present policy with the best one, on the same episodes; keep it, or note that it has declined.

    A policy has declined when it is worse by more than three standard errors of the paired difference; twice in a row ends the
    run, for whatever it learns from there on it learns from a broken policy.
    """
    progress = session.progress
    difference = np.array(scores) - np.array(progress.scores)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    if difference.mean() > 0:
        progress.scores = scores
        progress.best_iteration = progress.iteration
        session.best = session.trainer.deployed()
    declined = bool(difference.mean() < -DECLINE * error and difference.mean() < 0)
    progress.declines = progress.declines + 1 if declined else 0
    progress.stopped = progress.declines >= 2
    return {"held_out": _mean(scores), "best": _mean(progress.scores)}


def _save(session: Session) -> None:
    """A checkpoint that the other verbs read too: "ema" is the best policy, "model" the last."""
    progress = session.progress
    state = {"trainer": session.trainer.state_dict(), "progress": asdict(progress)}
    text = (session.folder / "config.yaml").read_text()
    weights = session.trainer.network.state_dict()
    save_checkpoint(session.folder, Checkpoint(progress.iteration, weights, session.best, state, text, {}), KEEP)


def _finish(session: Session, before: dict[str, Tensor]) -> None:
    """Play the same fresh episodes with the policy before and the best one, and write what came of it."""
    progress, count = session.progress, int(session.config.final_episodes)
    succeeds = session.environments[0].suite.succeeds
    found = {"env_steps": float(progress.steps), "train_seconds": progress.seconds}
    found["best_iteration"] = float(progress.best_iteration)
    for label, weights in (("before", before), ("after", session.best)):
        figures = summarise(session.play(weights, "fresh", count), succeeds=succeeds)
        found |= {f"{name}.{label}": value for name, value in figures.items()}
    write_metrics(session.folder, found)
    draw_curves(session.folder, chains=session.trainer.chains())
    name = "success" if succeeds else "return"
    print(
        f"{name} over {count} fresh episodes, noise-free: {found[f'{name}.before']:.3f} before, {found[f'{name}.after']:.3f} "
        f"after {progress.steps} environment steps ({progress.seconds / 60:.1f} minutes); "
        f"best of iteration {progress.best_iteration}\nrun: {session.folder}",
        flush=True,
    )


def _line(session: Session, figures: dict[str, float]) -> str:
    progress = session.progress
    rate = progress.steps / max(progress.seconds, 1e-9)
    shown = [
        f"iteration {progress.iteration}/{session.config.iterations}",
        f"{progress.steps} steps",
        f"{rate:.0f} steps/s",
    ]
    for name, text in (
        ("train_success", "noisy success"),
        ("train_return", "return"),
        ("held_out", "held-out"),
        ("kl", "kl"),
        ("clip_fraction", "clipped"),
        ("explained_variance", "explained"),
        ("sigma_0", "sigma"),
    ):
        if name in figures and (name != "train_success" or session.environments[0].suite.succeeds):
            shown.append(f"{text} {figures[name]:.3g}")
    return "  ".join(shown)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
