"""Mutants of what benchmarks compare by."""

from mutant import Mutant

MUTANTS = (
    Mutant(
        "benchmarking/normalised.py",
        "span = floor - baseline if",
        "span = baseline - floor if",
        "benchmarking/regression",
    ),
    Mutant(
        "benchmarking/normalised.py", "gain = value - baseline if", "gain = value - floor if", "benchmarking/regression"
    ),
    Mutant(
        "benchmarking/normalised.py",
        "value, floor, baseline = abs(value - 1)",
        "value, floor, baseline = abs(value)",
        "benchmarking/regression",
    ),
    Mutant(
        "benchmarking/regression.py", "gain = after - before if", "gain = before - after if", "benchmarking/regression"
    ),
    Mutant(
        "benchmarking/regression.py",
        "watch.absolute + watch.relative",
        "watch.absolute - watch.relative",
        "benchmarking/regression",
    ),
    Mutant(
        "benchmarking/domains_table.py",
        "lost = (first - second) / first",
        "lost = (second - first) / first",
        "benchmarking/page",
    ),
    Mutant("benchmarking/cells.py", "steps = 2 + round(", "steps = 1 + round(", "benchmarking/cells"),
    Mutant("benchmarking/cells.py", "self.network / self.total", "self.total / self.network", "benchmarking/cells"),
)
