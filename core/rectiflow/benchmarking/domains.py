"""`rectiflow bench domains`: every domain's demo, before and after rectification, cell by cell; continues where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from rectiflow.batch import Cond
from rectiflow.benchmarking.catalogue import study_folder
from rectiflow.benchmarking.cells import OWN, check_solvers, clock_of, measure_cell, steps_for
from rectiflow.benchmarking.footprint import footprint
from rectiflow.benchmarking.measurement import (
    FILE,
    Measurement,
    append_measurement,
    read_measurements,
    up_to_date,
)
from rectiflow.benchmarking.page import write_combined, write_page
from rectiflow.benchmarking.quick_models import quick_models
from rectiflow.benchmarking.subject import Subject, Yardstick, demo_runs, open_subject
from rectiflow.domain import DomainSpec, installed, load_spec
from rectiflow.errors import ConfigError, MissingDependency, RectiflowError
from rectiflow.solvers.catalogue import ADAPTIVE
from rectiflow.verbs.evaluate import geometry

STUDY = "domains"
FLOWS = ("base", "rectified")
PARTS = ("quality", "cost")
TOLERANCE = 1e-3
"""Of the adaptive solver, relative and absolute."""
QUICK_SAMPLES = 24
QUICK_METHODS = ("own", "heun")
QUICK_NFE = (1, 2, 8)

Cell = dict[str, str | float]
Figures = tuple[dict[str, float], dict[str, tuple[float, float]]]


def run(config: DictConfig) -> Path:
    """Measure what is missing, write the pages, and return the study's.

    Raises:
        ConfigError: a setting that is not allowed, or no trained run of any domain.
        RectiflowError: training of a quick model failed.
    """
    check(config)
    started = time.perf_counter()
    measured = [name for name in config.domains or installed() if _measured(name, config)]
    folder = study_folder(config)
    if not measured and not (folder / FILE).is_file():
        raise ConfigError(
            "no domain has a trained run; make one by `rectiflow demo <domain>`, name one by runs.<domain>=…, or give quick=true"
        )
    page = write_page(folder)
    write_combined(folder.parent)
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes\nreport: {page}")
    return page


def _measured(name: str, config: DictConfig) -> bool:
    """Whether a domain could be measured; else a line says what it lacks."""
    spec = load_spec(name)
    try:
        runs = {role: path for role, path in _runs(spec, config).items() if role in config.flows}
        if runs:
            _measure_domain(spec, runs, config)
            return True
        print(f"{name}: no run under {Path(str(config.out), name, str(config.demo))}; `rectiflow demo {name}` makes it")
    except MissingDependency as error:
        print(f"{name}: {error}")
    return False


def check(config: DictConfig) -> None:
    """Refuse settings that are not allowed.

    Raises:
        ConfigError: names the first.
    """
    for key, allowed in (
        ("domains", tuple(installed())),
        ("runs", tuple(installed())),
        ("flows", FLOWS),
        ("parts", PARTS),
    ):
        for value in config[key]:
            if value not in allowed:
                raise ConfigError(f"{key} holds {value!r}; allowed: {', '.join(allowed)}")
    check_solvers(list(config.methods))
    if not config.nfe or min(config.nfe) < 1:
        raise ConfigError(f"nfe={list(config.nfe)} is not allowed: give numbers of evaluations, each at least 1")
    if config.samples < 0 or config.samples == 1:
        raise ConfigError(
            f"samples={config.samples} is not allowed: at least 2, or 0 for what each run is evaluated with"
        )
    if config.max_nfe < 1:
        raise ConfigError(f"max_nfe={config.max_nfe} is not allowed: it must be at least 1")


def _runs(spec: DomainSpec, config: DictConfig) -> dict[str, Path]:
    if config.quick and not config.runs.get(spec.name):
        return quick_models(spec, config)
    return demo_runs(spec, config)


def _measure_domain(spec: DomainSpec, runs: dict[str, Path], config: DictConfig) -> None:
    """All cells of a domain, those of one flow after the other."""
    recorder = Recorder(study_folder(config) / FILE)
    samples = config.samples or (QUICK_SAMPLES if config.quick else 0)
    yardstick: Yardstick | None = None
    for role, path in runs.items():
        subject = open_subject(spec, role, path, samples, config.seed)
        digest = subject.digest(subject.count, subject.seed)
        yardstick = _model(subject, recorder, config, digest, yardstick)
        if "quality" in config.parts:
            for solver, nfe in _settings(subject, config):
                recorder.measure(
                    subject,
                    _cell(subject, "quality", solver=solver, nfe=float(nfe or 0)),
                    digest if nfe else subject.digest(subject.count, subject.seed, TOLERANCE, config.max_nfe),
                    _command(subject, config, "parts=[quality]", f"methods=[{solver}]"),
                    partial(measure_cell, subject, yardstick, solver, nfe, TOLERANCE, config.max_nfe),
                    yardstick,
                )
        if "cost" in config.parts:
            command = _command(subject, config, "parts=[cost]")
            for part, measure in _costs(subject).items():
                recorder.measure(subject, _cell(subject, part), digest, command, measure)


def _cell(subject: Subject, part: str, **names: str | float) -> Cell:
    return {"domain": subject.spec.name, "flow": subject.role, "part": part, **names}


@dataclass(frozen=True)
class Recorder:
    """Where measurements go; what cannot be measured leaves a note and is tried again."""

    path: Path

    def stored(self, cell: Cell, digest: str) -> Measurement | None:
        """A measurement of the cell that was made with the same inputs."""
        return up_to_date(read_measurements(self.path), cell, digest)

    def measure(
        self,
        subject: Subject,
        cell: Cell,
        digest: str,
        command: str,
        measure: Callable[[], Figures],
        yardstick: Yardstick | None = None,
    ) -> None:
        """Measure a cell unless that was done with the same inputs."""
        if self.stored(cell, digest) is not None:
            return
        started = time.perf_counter()
        note = ""
        figures: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        try:
            figures, intervals = measure()
        except RectiflowError as error:
            note, digest = str(error), ""
        measurement = Measurement(
            study=STUDY,
            cell=cell,
            figures=figures,
            intervals=intervals,
            floor=yardstick.floor if yardstick else {},
            baseline=yardstick.baseline if yardstick else {},
            count=subject.count,
            seed=subject.seed,
            seconds=time.perf_counter() - started,
            digest=digest,
            note=note,
            command=command,
        )
        append_measurement(self.path, measurement)
        shown = note or ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"{measurement.label}: {shown} ({measurement.seconds:.0f} s)", flush=True)


def _settings(subject: Subject, config: DictConfig) -> Iterator[tuple[str, int | None]]:
    """Solvers and evaluations; `own` comes as the solver that it is, and None evaluations where the solver chooses."""
    wanted = QUICK_METHODS if config.quick else tuple(config.methods)
    for solver in dict.fromkeys(subject.own if name == OWN else name for name in wanted):
        if solver in ADAPTIVE:
            yield solver, None
            continue
        for nfe in QUICK_NFE if config.quick else config.nfe:
            if steps_for(solver, int(nfe), subject.flow.predicts) is not None:
                yield solver, int(nfe)


def _model(
    subject: Subject, recorder: Recorder, config: DictConfig, digest: str, yardstick: Yardstick | None
) -> Yardstick:
    """Record what the flow is: its size, its own solver, and what its figures lie between, which is returned."""
    cell = _cell(subject, "model")
    stored = recorder.stored(cell, digest)
    if stored is not None:
        return Yardstick(stored.floor, stored.baseline, stored.facts)
    between = yardstick or subject.yardstick()
    metric = subject.metric
    measurement = Measurement(
        study=STUDY,
        cell=cell,
        figures={"parameters": float(sum(parameter.numel() for parameter in subject.trained.network.parameters()))},
        floor=between.floor,
        baseline=between.baseline,
        count=subject.count,
        seed=subject.seed,
        digest=digest,
        facts={
            **between.facts,
            "metric": metric.name,
            "title": metric.title,
            "better": metric.better,
            "solver": subject.own,
            "run": subject.trained.folder.name,
            "clock": clock_of(subject.trained.device)[0],
            **({"quick": "yes"} if config.quick else {}),
        },
        command=_command(subject, config, "parts=[quality]", "methods=[own]"),
    )
    append_measurement(recorder.path, measurement)
    return between


def _costs(subject: Subject) -> dict[str, Callable[[], Figures]]:
    """What is measured beside quality, by name."""
    name, folder, evaluation = subject.spec.name, subject.trained.folder, subject.evaluation
    count = min(int(evaluation.get("paths", 256)), subject.count)
    cond: Cond = subject.cond

    def paths() -> Figures:
        return geometry(subject.trained, subject.x0, cond, float(evaluation.guidance), count), {}

    measures: dict[str, Callable[[], Figures]] = {
        "paths": paths,
        "sampling": lambda: (footprint("sampling", name, folder), {}),
    }
    if subject.role == "base":
        measures["training"] = lambda: (footprint("training", name, folder), {})
    return measures


def _command(subject: Subject, config: DictConfig, *chosen: str) -> str:
    """The command that measures a line: all evaluations of one solver, or all costs."""
    name = subject.spec.name
    words = [f"'domains=[{name}]'", f"'flows=[{subject.role}]'", *(f"'{text}'" for text in chosen)]
    if config.quick:
        words.append("quick=true")
    if config.runs.get(name):
        words.append(f"runs.{name}={config.runs[name]}")
    if config.samples:
        words.append(f"samples={config.samples}")
    if config.seed != 1:
        words.append(f"seed={config.seed}")
    return f"rectiflow bench domains {' '.join(words)}"
