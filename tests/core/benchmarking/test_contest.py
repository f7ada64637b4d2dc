"""Turns, ratios and intervals, on runs whose times are made up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from rectiflow.benchmarking.contest import (
    BARE,
    LEAST_ROUNDS,
    OURS,
    Contest,
    hold,
    largest_difference,
    median,
    ratio_of_medians,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def timed(seconds: Iterator[float], value: float = 1.0) -> Callable[[], tuple[float, float]]:
    return lambda: (next(seconds), value)


def contest(**runs: list[float]) -> Contest:
    """Runs that say how long they took, over and over, with the elapsed time twice the processor's."""
    return Contest(
        "part",
        "case",
        {name.replace("_", " "): timed(itertools.cycle(times)) for name, times in runs.items()},
        units=10,
        spent=lambda result: (result[0], 2 * result[0]),
    )


def test_ratios_are_of_medians_and_times_of_a_unit(generator: torch.Generator) -> None:
    found = hold(contest(rectiflow=[1e-5], other=[4e-5]), rounds=8, seconds=60, generator=generator)
    assert [outcome.name for outcome in found] == [OURS, "other"]
    assert found[1].ratio == pytest.approx((0.25, 0.25, 0.25))
    assert found[1].theirs.value == pytest.approx(4.0)
    assert found[1].ours.value == pytest.approx(1.0)
    assert found[1].clock_ratio.value == pytest.approx(0.25)
    assert math.isnan(found[1].difference)
    assert found[1].rounds == 8


def test_the_bare_loop_is_taken_off_and_is_no_rival(generator: torch.Generator) -> None:
    runs = {"rectiflow": [3e-5], "bare_loop": [1e-5], "other": [5e-5]}
    assert BARE == "bare loop"
    found = hold(contest(**runs), rounds=6, seconds=60, generator=generator)
    assert [outcome.name for outcome in found] == [OURS, "other"]
    assert found[1].ratio.value == pytest.approx((3 - 1) / (5 - 1))
    assert found[0].theirs.value == pytest.approx(2.0)


def test_rounds_end_with_the_time_but_never_below_five(generator: torch.Generator) -> None:
    found = hold(contest(rectiflow=[1e-5]), rounds=50, seconds=1e-9, generator=generator)
    assert found[0].rounds == LEAST_ROUNDS


def test_each_round_begins_with_another_run(generator: torch.Generator) -> None:
    seen: list[str] = []

    def run(name: str) -> tuple[float, float]:
        seen.append(name)
        return 1.0, 1.0

    names = (OURS, "b", "c")
    runs = {name: lambda name=name: run(name) for name in names}  # type: ignore[misc]
    hold(Contest("p", "c", runs, spent=lambda result: result), rounds=3, seconds=60, generator=generator)
    assert "".join(name[0] for name in seen[-9:]) == "rbcbcrcrb"


def test_results_are_compared_with_ours(generator: torch.Generator) -> None:
    runs: dict[str, Callable[[], Tensor]] = {OURS: lambda: torch.zeros(3), "b": lambda: torch.tensor([0.0, -0.5, 0.1])}
    given = Contest("p", "c", runs, largest_difference, figures=lambda result: {"size": float(len(result))})
    ours, other = hold(given, rounds=5, seconds=1, generator=generator)
    assert (ours.difference, other.difference) == (0.0, pytest.approx(0.5))
    assert other.figures == {"size": 3.0}
    assert other.theirs.value > 0


def test_a_median_lies_in_its_interval_which_shrinks_with_the_root_of_the_number(generator: torch.Generator) -> None:
    widths = []
    for count in (100, 1600):
        found = median(torch.randn(count, generator=generator), generator)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    # 2 x 1.96 sqrt(pi / 2 n) for normal numbers: four times as wide for a sixteenth of them.
    assert widths[0] == pytest.approx(2 * 1.96 * math.sqrt(math.pi / 200), rel=0.5)
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_what_disturbs_a_whole_round_does_not_widen_the_ratio(generator: torch.Generator) -> None:
    load = torch.rand(60, generator=generator) + 1
    found = ratio_of_medians(2 * load, 5 * load, generator)
    assert found == pytest.approx((0.4, 0.4, 0.4))
