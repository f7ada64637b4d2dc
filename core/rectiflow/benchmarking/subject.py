"""What the study of domains measures: one trained flow, its sources, and how it is sampled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from rectiflow.batch import Cond, State, map_state
from rectiflow.conditions import take
from rectiflow.control.guidance import Guidance
from rectiflow.domain import DomainSpec
from rectiflow.drawing import draw_sources, move
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.records import Metric
from rectiflow.rectify.optimal_steps import StepCosts, step_costs
from rectiflow.runs import CONFIG_FILE, lineage
from rectiflow.schedules import exponentials, scheduled
from rectiflow.trained import Trained, open_run
from rectiflow.training.checkpoint import checkpoint_folders

FINE = 64
"""Steps of the fine grid among whose times an optimised grid chooses."""
SCOUTS = 64
"""Samples by which it chooses."""


def demo_runs(spec: DomainSpec, config: DictConfig) -> dict[str, Path]:
    """The runs of a domain, base and rectified, as far as they exist: those named in `runs`, else those of its demo.

    Raises:
        ConfigError: `runs` names a folder that holds none.
    """
    given = config.runs.get(spec.name)
    folder = Path(given) if given else Path(str(config.out), spec.name, str(config.demo))
    if (folder / CONFIG_FILE).is_file():
        line = lineage(folder)
        return {"base": line[0]} if len(line) == 1 else {"base": line[0], "rectified": line[-1]}
    pairs = zip(("base", "rectified"), spec.demo_runs, strict=True)
    found = {role: folder / name for role, name in pairs if checkpoint_folders(folder / name)}
    if given and not found:
        raise ConfigError(
            f"runs.{spec.name}={given} holds neither {CONFIG_FILE} nor {' and '.join(spec.demo_runs)}; give a run, or the "
            "folder that rectiflow demo made"
        )
    return found


@dataclass(frozen=True)
class Yardstick:
    """What the figures of a domain lie between: the primary ones of real data and of something trivial, and what these are."""

    floor: dict[str, float]
    baseline: dict[str, float]
    facts: dict[str, str]


@dataclass(frozen=True)
class Subject:
    """A trained flow under study.

    Attributes:
        spec: its domain.
        role: base or rectified.
        trained: its run.
        flow: it, on the schedule that the run is evaluated on.
        x0: (count, ...) sources, the same for all subjects of a domain.
        cond: their conditions.
        seed: of the sources.
    """

    spec: DomainSpec
    role: str
    trained: Trained
    flow: Flow
    x0: State
    cond: Cond
    seed: int
    count: int

    @property
    def evaluation(self) -> Any:
        """How the run says that it is evaluated."""
        return self.trained.config.evaluation

    @property
    def own(self) -> str:
        """The solver that the run samples with."""
        return str(self.trained.config.sampling.method)

    @cached_property
    def metric(self) -> Metric:
        """The metric that stands for quality."""
        domain = self.trained.domain
        return next(metric for metric in domain.metrics if metric.name == domain.headline)

    @cached_property
    def step_costs(self) -> StepCosts:
        """What one Euler step costs between any times of a fine grid, from the first sources."""
        rows = torch.arange(min(SCOUTS, self.count))
        cond = take(self.cond, rows)
        return step_costs(
            self.flow.masked(self.trained.domain.mask(cond)),
            move(map_state(lambda part: part[rows], self.x0), self.trained.device),
            fine=FINE,
            cond=move(cond, self.trained.device),
            guidance=Guidance(float(self.evaluation.guidance)),
        )

    @property
    def shown(self) -> set[str]:
        """Names of the metrics that are kept: the primary ones."""
        return {metric.name for metric in self.trained.domain.metrics if metric.primary} | {self.metric.name}

    def yardstick(self) -> Yardstick:
        """Floor and baseline at this number of samples; of several, the last has the last word."""
        entries = {entry.kind: entry for entry in self.trained.domain.references(self.count, self.seed)}
        values: dict[str, dict[str, float]] = {
            kind: {name: value for name, value in entry.metrics.items() if name in self.shown}
            for kind, entry in entries.items()
        }
        facts = {str(kind): entry.description for kind, entry in entries.items()}
        return Yardstick(values.get("floor", {}), values.get("baseline", {}), facts)

    def how(self) -> dict[str, Any]:
        """What every solve is done with, for `carry`."""
        return {
            "guidance": self.evaluation.guidance,
            "batch": self.evaluation.batch,
            "device": self.trained.device,
            "seed": self.seed,
        }

    def digest(self, *parts: object) -> str:
        """Of the weights, and of whatever else a measurement depends on."""
        newest = checkpoint_folders(self.trained.folder)[-1] / "meta.json"
        text = repr((newest.read_bytes(), *parts))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_subject(spec: DomainSpec, role: str, folder: Path, samples: int, seed: int) -> Subject:
    """A run with its sources; `samples` 0 for as many as the run is evaluated with.

    Raises:
        ConfigError, CheckpointCorrupt: see `open_run`.
    """
    trained = open_run(spec, folder)
    evaluation = trained.config.evaluation
    flow = scheduled(trained.flow, exponentials(evaluation.get("exponential", {})))
    count = samples or int(evaluation.count)
    generator = torch.Generator().manual_seed(seed)
    cond = trained.domain.conditions(count, generator)
    x0 = draw_sources(trained.domain, flow, cond, count, generator)
    return Subject(spec, role, trained, flow, x0, cond, seed, count)
