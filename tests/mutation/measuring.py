"""Benchmarks: ratios, intervals, fits and verdicts."""

from __future__ import annotations

from mutant import Mutant

CONTEST, FITTING = "benchmarking/contest.py", "benchmarking/scaling/fitting.py"
CONTEST_TESTS, FITTING_TESTS = "benchmarking/contest", "benchmarking/scaling"

MUTANTS = (
    Mutant(
        CONTEST,
        "second[index].quantile(0.5, dim=1)",
        "second[_rows(len(second), generator)].quantile(0.5, dim=1)",
        CONTEST_TESTS,
    ),
    Mutant(CONTEST, "part - part[:, least : least + 1]", "part + part[:, least : least + 1]", CONTEST_TESTS),
    Mutant(
        CONTEST,
        "ratio_of_medians(processor[:, ours], processor[:, place]",
        "ratio_of_medians(processor[:, place], processor[:, ours]",
        CONTEST_TESTS,
    ),
    Mutant(CONTEST, "torch.tensor([0.025, 0.975]", "torch.tensor([0.25, 0.75]", CONTEST_TESTS),
    Mutant(CONTEST, "shift = turn % len(order)", "shift = 0", CONTEST_TESTS),
    Mutant(FITTING, "math.exp(offset.value)", "offset.value", FITTING_TESTS),
    Mutant(FITTING, "len(x) - 2) / float(spread)", "len(x)) / float(spread)", FITTING_TESTS),
    Mutant(FITTING, "weights = 1 / torch.tensor(y", "weights = torch.tensor(y", FITTING_TESTS),
    Mutant(
        "benchmarking/peers/errors.py",
        "point.nfe / _evaluations_at(point.error, theirs)",
        "_evaluations_at(point.error, theirs) / point.nfe",
        "benchmarking/peers",
    ),
    Mutant(
        "benchmarking/peers/layout.py",
        '"held" if high < limit',
        '"held" if low < limit',
        "benchmarking/peers",
    ),
)
