"""`rectiflow bench scaling`: cost against size with fitted exponents, two processes; continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from rectiflow.benchmarking.catalogue import study_folder
from rectiflow.benchmarking.measurement import FILE, Measurement, append_measurement, read_measurements, up_to_date
from rectiflow.benchmarking.page import write_combined, write_page
from rectiflow.benchmarking.peers.study import one_thread
from rectiflow.benchmarking.scaling.costs import Axis, Run, core_axes, domain_axes, model_of
from rectiflow.benchmarking.scaling.fitting import FEWEST, line, power_law
from rectiflow.benchmarking.scaling.processes import REDUCED, train
from rectiflow.domain import installed, load_spec
from rectiflow.errors import ConfigError, RectiflowError

STUDY = "scaling"
PARTS = ("core", "domains", "processes")
BATCHES, QUICK_BATCHES = (1, 2, 4, 8, 16), (1, 2, 4)
EVALUATIONS, QUICK_EVALUATIONS = (1, 2, 4, 8, 16), (1, 2, 4)
QUICK_SECONDS, QUICK_UPDATES = 0.1, 15
BATCH = 64
FIT = "fit"
Cell = dict[str, str | float]


@dataclass(frozen=True)
class Recorder:
    """Where the study's measurements go."""

    config: DictConfig
    path: Path
    digest: str

    def stored(self, cell: Cell) -> Measurement | None:
        """A measurement made with the same settings."""
        return up_to_date(read_measurements(self.path), cell, self.digest)

    def write(
        self,
        cell: Cell,
        figures: dict[str, float],
        intervals: dict[str, tuple[float, float]] | None = None,
        note: str = "",
    ) -> None:
        """Append one measurement."""
        command = f"rectiflow bench scaling parts=[{cell['part']}]" + (" quick=true" if self.config.quick else "")
        append_measurement(
            self.path,
            Measurement(
                STUDY,
                cell,
                figures,
                command,
                intervals=intervals or {},
                seed=int(self.config.seed),
                digest=self.digest,
                note=note,
            ),
        )


def run(config: DictConfig) -> Path:
    """Measure what is missing, write the pages, and return the study's.

    Raises:
        ConfigError: a setting that is not allowed.
    """
    check(config)
    started = time.perf_counter()
    folder = study_folder(config)
    identity = json.dumps([float(config.seconds), int(config.updates), int(config.seed), torch.__version__])
    recorder = Recorder(config, folder / FILE, hashlib.sha256(identity.encode()).hexdigest()[:12])
    with one_thread():
        if "core" in config.parts:
            for axis in core_axes(torch.Generator().manual_seed(int(config.seed))):
                _measure(recorder, "core", axis)
        if "domains" in config.parts:
            for name in config.domains or installed():
                _measure_domain(recorder, name)
    if "processes" in config.parts:
        _processes(recorder)
    page = write_page(folder)
    write_combined(folder.parent)
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes\nreport: {page}")
    return page


def check(config: DictConfig) -> None:
    """Refuse settings that are not allowed.

    Raises:
        ConfigError: names the first.
    """
    for key, allowed in (("parts", PARTS), ("domains", tuple(installed())), ("runs", tuple(installed()))):
        for value in config[key]:
            if value not in allowed:
                raise ConfigError(f"{key} holds {value!r}; allowed: {', '.join(allowed)}")
    if config.updates < 5:
        raise ConfigError(f"updates={config.updates} is not allowed: it must be an integer of at least 5")
    if not 0 < config.seconds < math.inf:
        raise ConfigError(f"seconds={config.seconds} is not allowed: it must be a number above 0")


def processor_seconds(run: Run, budget: float) -> float:
    """Median processor seconds of a call, over at least three calls and as many as fit the budget."""
    run()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < budget:
        started = time.process_time()
        run()
        taken.append(time.process_time() - started)
    return float(torch.tensor(taken, dtype=torch.float64).quantile(0.5))


def _measure(recorder: Recorder, part: str, axis: Axis) -> None:
    """All sizes of an axis, then the exponents: over all of them, and over the larger half, where fixed costs count less."""
    budget = QUICK_SECONDS if recorder.config.quick else float(recorder.config.seconds)
    sizes, costs = list(axis.sizes), []
    for size in sizes:
        cell: Cell = {"part": part, "case": axis.case, "axis": axis.name, "size": float(size)}
        stored = recorder.stored(cell)
        if stored is None:
            seconds = processor_seconds(axis.prepare(size), budget)
            recorder.write(cell, {"ms": 1000 * seconds})
            print(f"{axis.case}, {axis.name} {size}: {1000 * seconds:.3g} ms", flush=True)
        costs.append(1000 * seconds if stored is None else stored.figures["ms"])
    larger = max(FEWEST, len(sizes) // 2 + 1)
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, keep in (("exponent", len(sizes)), ("exponent_large", larger)):
        law = power_law(sizes[-keep:], costs[-keep:])
        figures[name], intervals[name] = law.exponent.value, (law.exponent.low, law.exponent.high)
    recorder.write({"part": part, "case": axis.case, "axis": axis.name, "size": FIT}, figures, intervals)


def _measure_domain(recorder: Recorder, name: str) -> None:
    spec, quick = load_spec(name), bool(recorder.config.quick)
    generator = torch.Generator().manual_seed(int(recorder.config.seed))
    try:
        model = model_of(spec, recorder.config)
        axes = domain_axes(
            spec,
            model,
            QUICK_BATCHES if quick else BATCHES,
            QUICK_EVALUATIONS if quick else EVALUATIONS,
            generator,
        )
        for axis in axes:
            _measure(recorder, "domains", axis)
    except RectiflowError as error:
        print(f"{name}: {error}")
        recorder.write({"part": "domains", "case": name, "axis": "none", "size": FIT}, {}, note=str(error))


def _processes(recorder: Recorder) -> None:
    """One process, one that accumulates two micro-steps, and two processes: the last two see the same numbers."""
    cell: Cell = {"part": "processes", "case": "two processes", "axis": "weights", "size": FIT}
    if recorder.stored(cell) is not None:
        return
    updates = QUICK_UPDATES if recorder.config.quick else int(recorder.config.updates)
    try:
        single = train(1, BATCH, 1, updates)
        accumulated = train(1, BATCH, 2, updates)
        double, again = (train(2, BATCH, 1, updates) for _ in range(2))
        halves = train(2, BATCH // 2, 1, updates)
    except RectiflowError as error:
        print(f"processes: {error}")
        recorder.write(cell, {}, note=str(error))
        return
    rate = float(single["samples_per_second"])
    offset, slope = line([4.0 * count for count in REDUCED], [float(double[f"reduce_{count}"]) for count in REDUCED])
    figures = {
        "equal": float(double["hash"] == accumulated["hash"]),
        "ranks_agree": float(double["ranks_agree"]),
        "repeats": float(double["hash"] == again["hash"]),
        "efficiency": float(double["samples_per_second"]) / (2 * rate),
        "efficiency_fixed_batch": float(halves["samples_per_second"]) / (2 * rate),
        "one_process": rate,
        "two_processes": float(double["samples_per_second"]),
        "update_ms": 1000 * float(single["update_seconds"]),
        "parameters": float(single["parameters"]),
        "latency_us": 1e6 * offset,
        "gigabytes_per_second": 1e-9 / slope,
    }
    recorder.write(cell, figures, note="gloo on one machine, a thread each; elapsed time, so other work on it counts")
    for count in REDUCED:
        size: Cell = {"part": "processes", "case": "all-reduce", "axis": "bytes", "size": 4.0 * count}
        recorder.write(size, {"ms": 1000 * float(double[f"reduce_{count}"])})
    print(f"two processes: equal {figures['equal']:.0f}, efficiency {figures['efficiency']:.2f}", flush=True)


def sizes_of(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those that are of a size, ascending, rather than fits."""
    found = [entry for entry in measurements if isinstance(entry.cell["size"], float)]
    return sorted(found, key=lambda entry: float(entry.cell["size"]))
