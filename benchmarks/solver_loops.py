"""What `integrate` adds a step to a plain loop of the same method, for each fixed-step solver, in processor time.

The plain loops have every constant made beforehand; their ends must equal ours. Both run by turns; medians come with a
distribution-free 95 % interval. Processor time of this thread is measured, so that other work on the machine counts less.

    python benchmarks/solver_loops.py [--repeats 200] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from solver_overhead import BATCH, STEPS, WIDTH, Median, TimedLinear, median
from torch import Tensor

from rectiflow.flow import Flow
from rectiflow.sampling import integrate

H = 1 / STEPS
MODEL = TimedLinear().eval().requires_grad_(False)
WHOLE = [torch.full((BATCH,), i / STEPS) for i in range(STEPS + 1)]
HALF = [torch.full((BATCH,), (i + 0.5) / STEPS) for i in range(STEPS)]


def move(x: Tensor, v: Tensor, h: float) -> Tensor:
    return torch.add(x, v, alpha=h)


def euler(x: Tensor) -> Tensor:
    for i in range(STEPS):
        x = move(x, MODEL(x, WHOLE[i]), H)
    return x


def midpoint(x: Tensor) -> Tensor:
    for i in range(STEPS):
        x = move(x, MODEL(move(x, MODEL(x, WHOLE[i]), H / 2), HALF[i]), H)
    return x


def heun(x: Tensor) -> Tensor:
    for i in range(STEPS):
        v = MODEL(x, WHOLE[i])
        x = move(move(x, v, H / 2), MODEL(move(x, v, H), WHOLE[i + 1]), H / 2)
    return x


def rk4(x: Tensor) -> Tensor:
    for i in range(STEPS):
        v1 = MODEL(x, WHOLE[i])
        v2 = MODEL(move(x, v1, H / 2), HALF[i])
        v3 = MODEL(move(x, v2, H / 2), HALF[i])
        v4 = MODEL(move(x, v3, H), WHOLE[i + 1])
        x = move(move(move(move(x, v1, H / 6), v2, H / 3), v3, H / 3), v4, H / 6)
    return x


def ab2(x: Tensor) -> Tensor:
    behind = MODEL(x, WHOLE[0])
    x = move(move(x, behind, H / 2), MODEL(move(x, behind, H), WHOLE[1]), H / 2)
    for i in range(1, STEPS):
        v = MODEL(x, WHOLE[i])
        x = move(move(x, v, 1.5 * H), behind, -0.5 * H)
        behind = v
    return x


def fireflow(x: Tensor) -> Tensor:
    v = MODEL(x, WHOLE[0])
    for i in range(STEPS):
        v = MODEL(move(x, v, H / 2), HALF[i])
        x = move(x, v, H)
    return x


def pseudo_corrector(x: Tensor) -> Tensor:
    v = MODEL(x, WHOLE[0])
    for i in range(STEPS):
        v_end = MODEL(move(x, v, H), WHOLE[i + 1])
        x = move(move(x, v, H / 2), v_end, H / 2)
        v = v_end
    return x


def reversible_heun(x: Tensor) -> Tensor:
    y, v = x, MODEL(x, WHOLE[0])
    for i in range(STEPS):
        y = move(move(2 * x, y, -1.0), v, H)
        v_next = MODEL(y, WHOLE[i + 1])
        x = move(move(x, v, H / 2), v_next, H / 2)
        v = v_next
    return x


def ddim(x: Tensor) -> Tensor:
    for i in range(STEPS):
        t, t_next = i / STEPS, (i + 1) / STEPS
        data = move(x, MODEL(x, WHOLE[i]), 1 - t)
        keep = (1 - t_next) / (1 - t)
        x = move(keep * x, data, t_next - keep * t)
    return x


LOOPS: dict[str, Callable[[Tensor], Tensor]] = {
    loop.__name__: loop for loop in (euler, midpoint, heun, rk4, ab2, fireflow, pseudo_corrector, reversible_heun, ddim)
}


def processor_seconds(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def compare(name: str, plain: Callable[[Tensor], Tensor], x0: Tensor, repeats: int) -> Median:
    """Microseconds a step that `integrate` takes beyond the plain loop."""
    flow = Flow(MODEL)

    def ours() -> Tensor:
        end: Tensor = integrate(flow, x0, steps=STEPS, method=name).x
        return end

    def theirs() -> Tensor:
        with torch.no_grad():
            return plain(x0)

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
    for _ in range(10):
        ours(), theirs()
    return median([1e6 * (processor_seconds(ours) - processor_seconds(theirs)) / STEPS for _ in range(repeats)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="runs of each loop (default 200)")
    parser.add_argument("--json", type=Path, help="also append one json line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x0 = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(0))
    results = {name: compare(name, plain, x0, arguments.repeats) for name, plain in LOOPS.items()}
    print(f"overhead in microseconds a step, {STEPS} steps, one {WIDTH} x {WIDTH} linear layer, batch {BATCH}")
    for name, (value, low, high) in results.items():
        print(f"{name:>22} {value:9.3f}   95 % interval {low:.3f} to {high:.3f}")
    if arguments.json is not None:
        figures = {name: result._asdict() for name, result in results.items()}
        settings = {"repeats": arguments.repeats, "torch": torch.__version__}
        with arguments.json.open("a") as file:
            file.write(json.dumps({"benchmark": "solver_loops", **settings, **figures}) + "\n")


if __name__ == "__main__":
    main()
