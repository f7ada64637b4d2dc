"""`rectiflow bench peers`: ours and other libraries on the same work in the same run; continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from scipy.stats import t as student_t

from rectiflow.benchmarking.catalogue import study_folder
from rectiflow.benchmarking.contest import OURS, Contest, Interval, hold
from rectiflow.benchmarking.measurement import FILE, Measurement, append_measurement, read_measurements, up_to_date
from rectiflow.benchmarking.page import write_combined, write_page
from rectiflow.benchmarking.peers.errors import Known, Point, adaptive, equal_error_ratios, fixed_budgets
from rectiflow.benchmarking.peers.learning import learn, losses
from rectiflow.benchmarking.peers.present import untouched, versions
from rectiflow.benchmarking.peers.sampling import METHODS, sampling
from rectiflow.benchmarking.peers.training import training
from rectiflow.benchmarking.peers.transport import transport
from rectiflow.benchmarking.settings import PeersSettings
from rectiflow.domain import installed, load_object, load_spec
from rectiflow.errors import ConfigError, MissingDependency

STUDY = "peers"
PARTS = ("sampling", "training", "transport", "error", "adaptive", "learning", "domains")
NETWORKS = ((64, 2, 64, 200), (384, 4, 128, 60), (768, 6, 256, 16))
"""Width, depth, batch and updates a run of the networks that are trained."""
QUICK = {"rounds": 15, "seconds": 5.0, "seeds": 2, "updates": 300}


@dataclass(frozen=True)
class Recorder:
    """Where the study's measurements go."""

    config: DictConfig
    path: Path
    digest: str

    def done(self, part: str, case: str) -> bool:
        """Whether our own measurement, the last of a case to be written, is there."""
        cell = {"part": part, "case": case, "peer": OURS}
        return up_to_date(read_measurements(self.path), cell, self.digest) is not None

    def write(self, part: str, case: str, peer: str, figures: dict[str, float], **facts: object) -> None:
        """Append one measurement."""
        append_measurement(
            self.path,
            Measurement(
                STUDY,
                {"part": part, "case": case, "peer": peer},
                figures,
                command_of(part, self.config),
                seed=int(self.config.seed),
                digest=self.digest,
                machine={"peers": versions()},
                **facts,  # type: ignore[arg-type]  # fields of the record
            ),
        )

    def missing(self, part: str, case: str, peers: dict[str, str]) -> None:
        """A line for each peer that is not installed."""
        for peer, command in peers.items():
            print(f"{part}, {case}: {peer} is not installed; {command}", flush=True)
            self.write(part, case, peer, {}, note=f"not installed: {command}")


def command_of(part: str, config: DictConfig) -> str:
    """The command that measures a part in the same way."""
    usual = PeersSettings()
    names = ("quick", "rounds", "seconds", "seeds", "updates", "seed")
    changed = [f"{name}={str(config[name]).lower()}" for name in names if config[name] != getattr(usual, name)]
    return " ".join([f"rectiflow bench peers parts=[{part}]", *changed])


def run(config: DictConfig) -> Path:
    """Measure what is missing, write the pages, and return the study's.

    Raises:
        ConfigError: a setting that is not allowed.
    """
    check(config)
    started = time.perf_counter()
    numbers = {name: QUICK[name] if config.quick else config[name] for name in QUICK}
    identity = json.dumps([numbers, config.seed, versions(), torch.__version__], sort_keys=True, default=float)
    folder = study_folder(config)
    recorder = Recorder(config, folder / FILE, hashlib.sha256(identity.encode()).hexdigest()[:12])
    with one_thread():
        for part in config.parts:
            if part == "error":
                _errors(recorder)
            elif part == "adaptive":
                _adaptive(recorder)
            elif part == "learning":
                _learning(recorder, int(numbers["seeds"]), int(numbers["updates"]))
            else:
                for name, build in _contests(part):
                    _contest(recorder, part, name, build, int(numbers["rounds"]), float(numbers["seconds"]))
    page = write_page(folder)
    write_combined(folder.parent)
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes\nreport: {page}")
    return page


def check(config: DictConfig) -> None:
    """Refuse settings that are not allowed.

    Raises:
        ConfigError: names the first.
    """
    for part in config.parts:
        if part not in PARTS:
            raise ConfigError(f"parts holds {part!r}; allowed: {', '.join(PARTS)}")
    for name, least in (("rounds", 5), ("seeds", 2), ("updates", 1)):
        if config[name] < least:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least {least}")
    if not 0 < config.seconds < math.inf:
        raise ConfigError(f"seconds={config.seconds} is not allowed: it must be a number above 0")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block, so that everyone has the same share of the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Build = Callable[[torch.Generator], Contest]


def _contests(part: str) -> Iterator[tuple[str, Build]]:
    """Name of each contest of a part, and what makes it."""
    if part == "sampling":
        for method in METHODS:
            yield method, partial(sampling, method)
    elif part == "training":
        for width, depth, batch, steps in NETWORKS:
            yield f"width {width}", partial(training, width, depth, batch, steps)
    elif part == "transport":
        for size in (256, 1024):
            yield f"batch {size}", partial(transport, size)
    else:
        for name in installed():
            for title, path in load_spec(name).peers.items():
                yield f"{name}: {title}", partial(_of_domain, name, path)


def _of_domain(name: str, path: str, generator: torch.Generator) -> Contest:
    contest: Contest = load_object(path, extra=name)(generator)
    return contest


def _contest(recorder: Recorder, part: str, name: str, build: Build, rounds: int, seconds: float) -> None:
    generator = torch.Generator().manual_seed(int(recorder.config.seed))
    try:
        contest = build(generator)
    except MissingDependency as error:
        print(f"{part}, {name}: {error}")
        recorder.write(part, name, OURS, {}, note=str(error))
        return
    if recorder.done(part, contest.case):
        return
    started = time.perf_counter()
    with untouched():
        outcomes = hold(contest, rounds=rounds, seconds=seconds, generator=generator)
    recorder.missing(part, contest.case, dict(contest.missing))
    for outcome in sorted(outcomes, key=lambda outcome: outcome.name == OURS):
        figures = {
            "microseconds": outcome.theirs.value,
            "ratio": outcome.ratio.value,
            "clock_ratio": outcome.clock_ratio.value,
            "difference": outcome.difference,
            "tolerance": contest.tolerance,
            "rounds": float(outcome.rounds),
            **outcome.figures,
        }
        intervals = {
            name: (found.low, found.high)
            for name, found in (("microseconds", outcome.theirs), ("ratio", outcome.ratio))
            if math.isfinite(found.low) and math.isfinite(found.high)
        }
        note = f"a {contest.unit}" + (f"; {contest.note}" if contest.note else "")
        spent = time.perf_counter() - started
        recorder.write(part, contest.case, outcome.name, figures, intervals=intervals, note=note, seconds=spent)
        print(f"{part}, {contest.case}: {outcome.name} {outcome.theirs.value:.4g} us, ratio {outcome.ratio.value:.3g}")


def _errors(recorder: Recorder) -> None:
    if recorder.done("error", "all"):
        return
    known = Known(torch.Generator().manual_seed(int(recorder.config.seed)))
    with untouched():
        found, missing = fixed_budgets(known)
    recorder.missing("error", "all", missing)
    for points in found.values():
        for point in points:
            _write_point(recorder, "error", f"{point.method} {point.nfe}", point)
    recorder.write("error", "all", OURS, {})


def _adaptive(recorder: Recorder) -> None:
    if recorder.done("adaptive", "equal error"):
        return
    known = Known(torch.Generator().manual_seed(int(recorder.config.seed)))
    with untouched():
        found, missing = adaptive(known)
    recorder.missing("adaptive", "equal error", missing)
    for points in found.values():
        for point in points:
            _write_point(recorder, "adaptive", point.method, point)
    ratios = equal_error_ratios(found[OURS], found["torchdiffeq"]) if "torchdiffeq" in found else []
    figures = {"ratio": math.exp(sum(map(math.log, ratios)) / len(ratios))} if ratios else {}
    spread = {"ratio": (min(ratios), max(ratios))} if ratios else {}
    note = "evaluations at equal error, ours over torchdiffeq's; the interval holds all errors measured"
    recorder.write("adaptive", "equal error", OURS, figures, intervals=spread, note=note)


def _write_point(recorder: Recorder, part: str, case: str, point: Point) -> None:
    recorder.write(part, case, point.peer, {"error": point.error, "nfe": float(point.nfe)})


def _learning(recorder: Recorder, seeds: int, updates: int) -> None:
    case = f"chequerboard, {updates} updates"
    if recorder.done("learning", case):
        return
    found, missing = losses()
    recorder.missing("learning", case, missing)
    # Seeds take turns over everyone, and ours is written last: it says that the case is complete.
    tables = {name: [learn(loss, updates, seed) for seed in range(seeds)] for name, loss in found.items()}
    for name in sorted(tables, key=lambda name: name == OURS):
        rows = tables[name]
        means = {key: mean_interval(torch.tensor([row[key] for row in rows])) for key in rows[0]}
        figures = {key: mean.value for key, mean in means.items()} | {"seeds": float(seeds)}
        recorder.write(
            "learning", case, name, figures, intervals={key: (mean.low, mean.high) for key, mean in means.items()}
        )
        print(f"learning, {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)


def mean_interval(values: torch.Tensor) -> Interval:
    """Mean of values (R,), R at least 2, with its 95 % interval by Student's t."""
    reach = float(student_t.ppf(0.975, len(values) - 1)) * float(values.std()) / math.sqrt(len(values))
    mean = float(values.mean())
    return Interval(mean, mean - reach, mean + reach)
