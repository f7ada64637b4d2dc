"""The same work done by us and by others: runs that take turns, results that are compared, ratios with intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

OURS = "rectiflow"
BARE = "bare loop"
RESAMPLES = 2000
WARM_UP = 2
LEAST_ROUNDS = 5


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contest:
    """One piece of work and everyone who does it.

    Attributes:
        part: of the study, the heading that it stands under.
        case: what the work is, in words.
        runs: name -> a function that does all of it once and returns its result; `OURS` among them, and `BARE` if there is a
            least that anyone can take, whose time is then taken off everyone's.
        difference: of another's result from ours, a number of at least 0; None where results are not to be equal.
        tolerance: the largest difference that counts as equal.
        units: of work in one run, which times are given for.
        unit: what a unit is.
        spent: processor and elapsed seconds that a result says it took; None: those of the whole run.
        figures: of a result, further figures by name.
        missing: name -> the pip command that brings it.
        note: for the reader.
    """

    part: str
    case: str
    runs: Mapping[str, Callable[[], Any]]
    difference: Callable[[Any, Any], float] | None = None
    tolerance: float = 1e-5
    units: int = 1
    unit: str = "step"
    spent: Callable[[Any], tuple[float, float]] | None = None
    figures: Callable[[Any], Mapping[str, float]] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class Outcome(NamedTuple):
    """How one of those who did the work compares with us.

    Times are microseconds of processor time for a unit of work, less the bare loop's where there is one. `ratio` is ours over
    theirs, `clock_ratio` the same of elapsed time; `difference` is NaN where results are not to be equal.
    """

    name: str
    ours: Interval
    theirs: Interval
    ratio: Interval
    clock_ratio: Interval
    difference: float
    rounds: int
    figures: Mapping[str, float]


def largest_difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two tensors' entries."""
    first, second = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    return float((first - second).abs().max())


def hold(contest: Contest, *, rounds: int, seconds: float, generator: torch.Generator) -> list[Outcome]:
    """Let all runs take turns, each round beginning with another one, and compare everyone's time with ours.

    Args:
        contest: the work.
        rounds: at most.
        seconds: after which no further round begins, of at least five.
        generator: of the resampling that makes the intervals.
    """
    results = {name: run() for name, run in contest.runs.items()}
    for _ in range(WARM_UP - 1):
        for run in contest.runs.values():
            run()
    taken = _take_turns(contest, rounds, seconds)
    processor, clock = taken[..., 0], taken[..., 1]
    names = list(contest.runs)
    if BARE in names:
        least = names.index(BARE)
        processor, clock = (part - part[:, least : least + 1] for part in (processor, clock))
    ours = names.index(OURS)
    outcomes = []
    for place, name in enumerate(names):
        if name == BARE:
            continue
        differs = math.nan
        if contest.difference is not None:
            differs = float(contest.difference(results[OURS], results[name]))
        outcomes.append(
            Outcome(
                name,
                median(1e6 * processor[:, ours] / contest.units, generator),
                median(1e6 * processor[:, place] / contest.units, generator),
                ratio_of_medians(processor[:, ours], processor[:, place], generator),
                ratio_of_medians(clock[:, ours], clock[:, place], generator),
                differs,
                len(processor),
                contest.figures(results[name]) if contest.figures else {},
            )
        )
    return outcomes


def _take_turns(contest: Contest, rounds: int, seconds: float) -> Tensor:
    """Processor and elapsed seconds (rounds, runs, 2)."""
    order, table = list(enumerate(contest.runs.values())), []
    started = time.perf_counter()
    for turn in range(rounds):
        row = torch.zeros(len(order), 2, dtype=torch.float64)
        shift = turn % len(order)
        for place, run in order[shift:] + order[:shift]:
            clock, processor = time.perf_counter(), time.process_time()
            result = run()
            whole = time.process_time() - processor, time.perf_counter() - clock
            row[place] = torch.tensor(contest.spent(result) if contest.spent else whole, dtype=torch.float64)
        table.append(row)
        if turn + 1 >= LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
    return torch.stack(table)


def median(values: Tensor, generator: torch.Generator) -> Interval:
    """Median of values (R,) with its bootstrap interval (percentiles of `RESAMPLES` resamples)."""
    return _interval(values.quantile(0.5), _resampled(values, generator).quantile(0.5, dim=1))


def ratio_of_medians(first: Tensor, second: Tensor, generator: torch.Generator) -> Interval:
    """median(first) / median(second) of values (R,) measured in the same rounds, which are resampled together."""
    index = _rows(len(first), generator)
    resampled = first[index].quantile(0.5, dim=1) / second[index].quantile(0.5, dim=1)
    return _interval(first.quantile(0.5) / second.quantile(0.5), resampled)


def _interval(value: Tensor, resampled: Tensor) -> Interval:
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    return Interval(float(value), low, high)


def _resampled(values: Tensor, generator: torch.Generator) -> Tensor:
    return values[_rows(len(values), generator)]


def _rows(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (RESAMPLES, count), generator=generator)
