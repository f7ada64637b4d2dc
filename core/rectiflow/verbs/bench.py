"""`rectiflow bench`: a study of few-step methods, students of one teacher at the same cost; it continues where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from rectiflow.benchmarking.catalogue import FOLDER
from rectiflow.benchmarking.students import record_students
from rectiflow.domain import DomainSpec
from rectiflow.drawing import carry, draw_sources
from rectiflow.errors import ConfigError
from rectiflow.records import read_evaluation, read_lines, write_atomically
from rectiflow.rectify.distillation import EVALUATIONS
from rectiflow.runs import CONFIG_FILE, read_config
from rectiflow.study import Entry, Study
from rectiflow.study_report import Result, write_study
from rectiflow.trained import Trained, open_run
from rectiflow.training.checkpoint import checkpoint_folders
from rectiflow.verbs.boss import BOSS, FINE, SAMPLES, walk
from rectiflow.verbs.evaluate import parse_sampler
from rectiflow.verbs.jobs import Call, Job, run_jobs
from rectiflow.verbs.pairs import make_pairs

SECONDS_FILE = "cpu_seconds.json"
PATHS = 16  # straightness, which takes some of them and many steps, has no column
TIMED_SAMPLES = 100
TIMED_ROUNDS = 5


@dataclass(frozen=True)
class Bench:
    """A study that is being run."""

    spec: DomainSpec
    study: Study
    config: DictConfig

    @property
    def folder(self) -> Path:
        """Of all runs and results."""
        return Path(str(self.config.out), self.spec.name, str(self.config.name))

    @property
    def teacher(self) -> Path:
        """The teacher's run."""
        return self.folder / "teacher"

    def runs(self, entry: Entry) -> list[Path]:
        """The runs of an entry's stages; the teacher's for an entry without."""
        return [self.folder / f"{entry.name}-{k + 1}" for k in range(len(entry.stages))] or [self.teacher]


def run(spec: DomainSpec, study: Study, config: DictConfig) -> Path:
    """Train the teacher and every student, measure them, and return the report's path.

    Raises:
        ConfigError: an unknown entry, or a number that is not allowed.
        RectiflowError: a training or an evaluation failed; the message names its log.
    """
    for name in ("updates", "pairs", "jobs"):
        if config[name] < 1:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least 1")
    names = [entry.name for entry in study.entries]
    unknown = [name for name in config.methods if name not in names]
    if unknown:
        raise ConfigError(f"method {unknown[0]!r} is not in this study; allowed: {', '.join(names)}")
    chosen = tuple(entry for entry in study.entries if not config.methods or entry.name in config.methods)
    bench = Bench(spec, replace(study, entries=chosen), config)
    bench.folder.mkdir(parents=True, exist_ok=True)
    started, fresh = time.perf_counter(), not any(bench.folder.iterdir())
    _run(bench, [Job(_train_teacher(bench), 1.0)])
    _make_pairs(bench)
    # Grids of the teacher are needed by what is straightened on them, so its measuring begins first.
    untrained = Job(_measure(bench, [entry for entry in chosen if not entry.stages]))
    students = [_student(bench, entry) for entry in chosen if entry.stages]
    _run(bench, [untrained, *sorted(students, key=lambda job: -job.work)])
    results = _results(bench)
    record_students(Path(str(config.out), FOLDER, str(config.name)), spec.name, study, results, count=int(config.count))
    minutes = (time.perf_counter() - started) / 60
    facts = {name: config[name] for name in ("updates", "pairs", "count", "jobs")}
    facts |= {"cpu_seconds": _spent(bench), "minutes": round(minutes, 1) if fresh else None}
    path = write_study(bench.folder, study, results, title=f"rectiflow · {spec.name} · {config.name}", facts=facts)
    print(f"done in {minutes:.1f} minutes\nreport: {path}")
    return path


def _run(bench: Bench, jobs: list[Job]) -> None:
    run_jobs(jobs, folder=bench.folder, at_once=bench.config.jobs, spend=partial(_spend, bench))


def _train_teacher(bench: Bench) -> Iterator[Call]:
    config = bench.config
    if not _finished(bench.teacher):
        where = [f"name={config.name}/teacher", f"out={config.out}"]
        yield Call("teacher", ["train", bench.spec.name, f"recipe={bench.study.recipe}", *where, *config.teacher], 1.0)


def _student(bench: Bench, entry: Entry) -> Job:
    """The calls that make and measure a student, and how much there is still to train."""
    missing = [stage.share for stage, run in zip(entry.stages, bench.runs(entry), strict=True) if not _finished(run)]
    return Job(_make_student(bench, entry), entry.cost * sum(missing))


def _make_student(bench: Bench, entry: Entry) -> Iterator[Call]:
    config, previous = bench.config, bench.teacher
    for number, (stage, run) in enumerate(zip(entry.stages, bench.runs(entry), strict=True), start=1):
        if not _finished(run):
            settings = [_filled(bench, text) for text in (*bench.study.training, *stage.settings)]
            if entry.pairs:
                settings.append(f"pairs.folder='{bench.folder / 'pairs'}'")
            settings += [f"method={stage.method}", f"training.steps={max(1, round(stage.share * config.updates))}"]
            where = [f"run='{previous}'", f"name={config.name}/{entry.name}-{number}", f"out={config.out}"]
            quiet = ["training.tensorboard=false", "training.preview_every=0"]
            yield Call(entry.name, ["distill", bench.spec.name, *where, *settings, *quiet], entry.cost * stage.share)
        previous = run
    yield from _measure(bench, [entry])


def _measure(bench: Bench, entries: list[Entry]) -> Iterator[Call]:
    for entry in entries:
        run = bench.runs(entry)[-1]
        done = {(row.method, row.steps) for row in read_evaluation(run).rows if row.count == bench.config.count}
        missing = [text for text in entry.samplers if _key(text) not in done]
        if missing:
            settings = [f"samplers=[{','.join(missing)}]", f"count={bench.config.count}", f"paths={PATHS}"]
            yield Call("evaluation", ["evaluate", bench.spec.name, f"run='{run}'", *settings])


def _filled(bench: Bench, text: str) -> str:
    """A setting with the teacher's grid in place of @boss-<steps>."""
    key, _, value = text.partition("=@boss-")
    if not value:
        return text
    trained = open_run(bench.spec, bench.teacher)
    _, times = walk(trained, trained.flow, "boss", int(value), 1.0)
    return f"{key}=[{','.join(f'{time:g}' for time in ([] if times is None else times.tolist()))}]"


def _make_pairs(bench: Bench) -> None:
    if not any(entry.pairs for entry in bench.study.entries):
        return
    method, steps = bench.study.pairs
    teacher = open_run(bench.spec, bench.teacher)
    before = time.process_time()
    with _threads(bench.config.jobs):
        make_pairs(
            teacher,
            bench.folder / "pairs",
            count=bench.config.pairs,
            method=method,
            steps=steps,
            seed=1,
            exponential={},
        )
    _spend(bench, "pairs", time.process_time() - before)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads in this process, inside the `with` block, whatever it has otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _spend(bench: Bench, name: str, seconds: float) -> None:
    spent = _spent(bench)
    spent[name] = spent.get(name, 0.0) + seconds
    write_atomically(bench.folder / SECONDS_FILE, json.dumps(spent, indent=1, sort_keys=True) + "\n")


def _spent(bench: Bench) -> dict[str, float]:
    path = bench.folder / SECONDS_FILE
    found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _finished(run: Path) -> bool:
    """Whether a run has made its last step."""
    if not (run / CONFIG_FILE).is_file():
        return False
    found = checkpoint_folders(run)
    last = max((int(folder.name.rpartition("-")[2]) for folder in found), default=0)
    return last >= int(read_config(run).training.steps)


def _results(bench: Bench) -> list[Result]:
    """Every row: its figures from the evaluation, its cost from the training, its time measured here, in turn over all rows."""
    spent, results, timed = _spent(bench), [], []
    for entry in bench.study.entries:
        trained = open_run(bench.spec, bench.runs(entry)[-1])
        rows = {(row.method, row.steps): row for row in read_evaluation(trained.folder).rows}
        parameters = sum(parameter.numel() for parameter in trained.network.parameters())
        seconds = spent.get(entry.name, 0.0) + (spent.get("pairs", 0.0) if entry.pairs else 0.0)
        asked = _teacher_evaluations(bench, entry)
        for text in entry.samplers:
            row = rows[_key(text)]
            strip = None if row.strip is None else trained.folder / row.strip
            what, figures = (entry.name, entry.title, text), dict(row.metrics)
            results.append(Result(*what, row.nfe, parameters, seconds, figures, 0.0, strip, row.command, asked))
            timed.append((trained, *_key(text)))
    with _threads(1):
        times = [[_seconds(*row) for row in timed] for _ in range(TIMED_ROUNDS)]
    middle = torch.tensor(times).median(0).values.tolist()
    return [
        replace(result, milliseconds=1000 * seconds / TIMED_SAMPLES)
        for result, seconds in zip(results, middle, strict=True)
    ]


def _teacher_evaluations(bench: Bench, entry: Entry) -> float:
    """States at which the teacher was evaluated for an entry: in its first stage as the log counts them, its pairs, its grids."""
    total = 0.0
    grids = [] if entry.stages else [text for text in entry.samplers if _key(text)[0] == BOSS]
    if entry.stages:
        lines = [line for line in read_lines(bench.runs(entry)[0] / "metrics.jsonl") if "loss" in line]
        total += lines[-1]["step"] * sum(line.get(EVALUATIONS, 0.0) for line in lines) / len(lines)
        grids += [text for stage in entry.stages for text in stage.settings if f"=@{BOSS}-" in text]
    if entry.pairs:
        total += bench.config.pairs * _evaluations_of_a_pair(bench)
    return total + FINE * SAMPLES * len(grids)


def _evaluations_of_a_pair(bench: Bench) -> float:
    method, steps = bench.study.pairs
    trained, generator = open_run(bench.spec, bench.teacher), torch.Generator().manual_seed(0)
    cond = trained.domain.conditions(1, generator)
    x0 = draw_sources(trained.domain, trained.flow, cond, 1, generator)
    return carry(trained.flow, x0, cond, method=method, steps=steps, device=trained.device).nfe


def _key(text: str) -> tuple[str, int]:
    sampler = parse_sampler(text)
    return sampler.method, sampler.steps


def _seconds(trained: Trained, method: str, steps: int) -> float:
    generator = torch.Generator().manual_seed(0)
    cond = trained.domain.conditions(TIMED_SAMPLES, generator)
    x0 = draw_sources(trained.domain, trained.flow, cond, TIMED_SAMPLES, generator)
    walked, times = walk(trained, trained.flow, method, steps, 1.0)
    return carry(trained.flow, x0, cond, method=walked, steps=steps, times=times, device=trained.device).seconds
