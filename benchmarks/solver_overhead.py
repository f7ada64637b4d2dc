"""What the core adds to the network's own time: solver loop overhead a step, and coupling a batch.

Runs of the library and of a bare Python loop alternate, so that a busy machine slows both; medians come with a
distribution-free 95 % interval from order statistics.

    python benchmarks/solver_overhead.py [--repeats 400] [--threads 1] [--json results.json]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rectiflow.couplings import Coupling, EntropicOT, MinibatchOT, PartialOT, UnbalancedOT
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

STEPS = 50
BATCH = 16
WIDTH = 64


class Median(NamedTuple):
    """A median with its 95 % interval."""

    value: float
    low: float
    high: float


class TimedLinear(nn.Module):
    """The smallest network that reads x and t: one 64 x 64 matrix, shifted by the time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shifted: Tensor = self.linear(x) + t[:, None]
        return shifted


def median(values: Sequence[float]) -> Median:
    """Median of independent values, with the order statistics that enclose it with probability 0.95."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)  # 1.96 standard deviations sqrt(n) / 2 of a binomial count
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return Median(statistics.median(ordered), ordered[low], ordered[high])


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def bare_loop(model: nn.Module, x: Tensor, rows: Sequence[Tensor], h: float) -> Tensor:
    """Euler with everything hoisted out of the loop: the least that Python can do."""
    with torch.no_grad():
        for t in rows:
            x = torch.add(x, model(x, t), alpha=h)
    return x


def overhead(repeats: int, generator: torch.Generator) -> dict[str, Median]:
    """Time of `integrate` against the bare loop, both with 50 Euler steps of the same network."""
    model = TimedLinear().eval()
    flow, x0 = Flow(model), torch.randn(BATCH, WIDTH, generator=generator)
    rows = [torch.full((BATCH,), i / STEPS) for i in range(STEPS)]

    def library() -> Tensor:
        end: Tensor = integrate(flow, x0, steps=STEPS, method="euler").x
        return end

    def plain() -> Tensor:
        return bare_loop(model, x0, rows, 1 / STEPS)

    torch.testing.assert_close(library(), plain())
    for _ in range(20):  # warm caches and the allocator
        library(), plain()
    pairs = [(seconds(library), seconds(plain)) for _ in range(repeats)]
    return {
        "bare_us_per_step": median([1e6 * b / STEPS for _, b in pairs]),
        "library_us_per_step": median([1e6 * a / STEPS for a, _ in pairs]),
        "overhead_us_per_step": median([1e6 * (a - b) / STEPS for a, b in pairs]),
        "ratio": median([a / b for a, b in pairs]),
    }


def transport(repeats: int, generator: torch.Generator) -> dict[str, Median]:
    """Time of one coupling in 64 dimensions, normal noise against a shifted, wider normal: each kind that solves a problem."""
    results = {}
    for size in (256, 512, 1024):
        batches = [
            (torch.randn(size, WIDTH, generator=generator), 1 + 2 * torch.randn(size, WIDTH, generator=generator))
            for _ in range(max(5, repeats * 256 // (8 * size)))
        ]
        kinds: dict[str, Coupling] = {"ot": MinibatchOT()}
        if size == 256:
            kinds |= {"entropic": EntropicOT(), "unbalanced": UnbalancedOT(), "partial": PartialOT()}
        for name, coupling in kinds.items():
            coupling(*batches[0], generator=generator)
            times = [1e3 * seconds(functools.partial(coupling, *batch, generator=generator)) for batch in batches]
            results[f"{name}_{size}_ms"] = median(times)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="runs of each loop (default 400)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--json", type=Path, help="also append one json line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    results = overhead(arguments.repeats, generator) | transport(arguments.repeats, generator)
    print(f"Euler, {STEPS} steps, one {WIDTH} x {WIDTH} linear layer, batch {BATCH}; couplings in {WIDTH} dimensions")
    for name, (value, low, high) in results.items():
        print(f"{name:>22} {value:9.3f}   95 % interval {low:.3f} to {high:.3f}")
    if arguments.json is not None:
        figures = {name: result._asdict() for name, result in results.items()}
        settings = {"repeats": arguments.repeats, "threads": arguments.threads, "torch": torch.__version__}
        with arguments.json.open("a") as file:
            file.write(json.dumps({"benchmark": "solver_overhead", **settings, **figures}) + "\n")


if __name__ == "__main__":
    main()
