"""What `integrate` adds a step to a plain loop of the same method, for each fixed-step solver, in processor time.

The plain loops have every constant made beforehand; their ends must equal ours. Both run by turns; medians come with a
distribution-free 95 % interval. Processor time of this thread is measured, so that other work on the machine counts less.
Exit status 1: a solver is above the bar, or has no plain loop here.

    python benchmarks/solver_loops.py [--repeats 200] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from solver_overhead import BATCH, STEPS, WIDTH, Median, TimedLinear, median
from torch import Tensor

from rectiflow.flow import Flow
from rectiflow.interpolants import Linear
from rectiflow.sampling import Solution, integrate
from rectiflow.solvers.catalogue import ADAPTIVE, SOLVERS, STOCHASTIC
from rectiflow.solvers.exponential import rungs
from rectiflow.solvers.flow_turbo import Blocks

H = 1 / STEPS
MODEL = TimedLinear().eval().requires_grad_(False)
WHOLE = [torch.full((BATCH,), i / STEPS) for i in range(STEPS + 1)]
HALF = [torch.full((BATCH,), (i + 0.5) / STEPS) for i in range(STEPS)]
TIMES = [i / STEPS for i in range(STEPS + 1)]
PATH = rungs(Linear(), TIMES)
LAST = STEPS - 1
BAR = 10.0
TOLERANCE = 16 * torch.finfo(torch.float32).eps


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


def weigh(weights: tuple[float, ...], *terms: Tensor) -> Tensor:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = move(total, term, weight)
    return total


def estimate(x: Tensor, i: int) -> Tensor:
    """E[x1 | x] on the linear path."""
    return move(x, MODEL(x, WHOLE[i]), 1 - TIMES[i])


def weights(i: int, count: int) -> tuple[float, ...]:
    """Of the state and of the last predictions, newest first, in step i of an exponential method."""
    return PATH.polynomial(i, i, min(i, count)) if 0 < i < LAST else PATH.first_order(i)


def second_order(i: int) -> tuple[float, ...]:
    keep, weight = PATH.first_order(i)
    if not 1 < i < LAST:
        return keep, weight
    ahead = (PATH.clock[i + 1] - PATH.clock[i]) / (2 * (PATH.clock[i] - PATH.clock[i - 1]))
    return keep, weight * (1 + ahead), -weight * ahead


FIRST = [PATH.first_order(i) for i in range(STEPS)]
SECOND = [second_order(i) for i in range(STEPS)]
THIRD = [weights(i, 3) for i in range(STEPS)]
PREDICTOR = [weights(i, 2) for i in range(STEPS)]
CORRECTOR = [PATH.polynomial(i - 1, i, min(i, 3)) if i > 1 else () for i in range(STEPS)]


def ddim(x: Tensor) -> Tensor:
    for i in range(STEPS):
        x = weigh(FIRST[i], x, estimate(x, i))
    return x


def reinterpolate(x: Tensor) -> Tensor:
    x0 = x
    for i in range(STEPS):
        x = weigh((TIMES[i + 1], 1 - TIMES[i + 1]), estimate(x, i), x0)
    return x


def flow_turbo(x: Tensor) -> Tensor:
    """Without a refiner: Heun, pseudo-corrector, Heun."""
    blocks, v = Blocks.of(STEPS), x
    for i in range(STEPS):
        carried = blocks.heun <= i < blocks.heun + blocks.pseudo
        start = v if carried else MODEL(x, WHOLE[i])
        v = MODEL(move(x, start, H), WHOLE[i + 1])
        x = move(move(x, start, H / 2), v, H / 2)
    return x


def dpmpp_2m(x: Tensor) -> Tensor:
    known: list[Tensor] = []
    for i in range(STEPS):
        known = [estimate(x, i), *known[:1]]
        x = weigh(SECOND[i], x, *known[: len(SECOND[i]) - 1])
    return x


def dpmpp_3m(x: Tensor) -> Tensor:
    known: list[Tensor] = []
    for i in range(STEPS):
        known = [estimate(x, i), *known[:2]]
        x = weigh(THIRD[i], x, *known[: len(THIRD[i]) - 1])
    return x


def unipc(x: Tensor) -> Tensor:
    known: list[Tensor] = []
    start = x
    for i in range(STEPS):
        new = estimate(x, i)
        if CORRECTOR[i]:
            x = weigh(CORRECTOR[i], start, new, *known[: len(CORRECTOR[i]) - 2])
        known, start = [new, *known[:1]], x
        x = weigh(PREDICTOR[i], x, *known[: len(PREDICTOR[i]) - 1])
    return x


def implicit_midpoint(x: Tensor) -> Tensor:
    slope = MODEL(x, HALF[0])
    for i in range(STEPS):
        allowed = (x.abs() + 1).double() * TOLERANCE
        change = 2.0
        while change > 1:
            found = MODEL(move(x, slope, H / 2), HALF[i])
            change = float(((found - slope).double() * H / allowed).square().mean()) ** 0.5
            slope = found
        x = move(x, slope, H)
    return x


def noisy(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Velocity and drift on the linear path, eps = s = 1 - t: the score is -E[x0 | x] / s."""
    t, v = TIMES[i], MODEL(x, WHOLE[i])
    return v, move(v, weigh((t / (1 - t), -1 / (1 - t)), v, x), 1 - t)


def euler_maruyama(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    for i in range(LAST):
        x = move(x, noisy(x, i)[1], H)
        x = move(x, torch.randn(x.shape, generator=generator), (2 * (1 - TIMES[i]) * H) ** 0.5)
    return move(x, MODEL(x, WHOLE[LAST]), H)


def stochastic_heun(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    for i in range(LAST):
        v, slope = noisy(x, i)
        noise = (2 * (1 - TIMES[i] - H / 2) * H) ** 0.5 * torch.randn(x.shape, generator=generator)
        end = move(x, slope, H) + noise
        x = move(move(x, slope, H / 2), noisy(end, i + 1)[1], H / 2) + noise
    v = MODEL(x, WHOLE[LAST])
    return move(move(x, v, H / 2), MODEL(move(x, v, H), WHOLE[STEPS]), H / 2)


LOOPS: dict[str, Callable[[Tensor], Tensor]] = {
    "euler": euler,
    "jump": euler,
    "midpoint": midpoint,
    "heun": heun,
    "rk4": rk4,
    "ab2": ab2,
    "fireflow": fireflow,
    "pseudo_corrector": pseudo_corrector,
    "flow_turbo": flow_turbo,
    "reinterpolate": reinterpolate,
    "ddim": ddim,
    "dpm++2m": dpmpp_2m,
    "dpm++3m": dpmpp_3m,
    "unipc": unipc,
    "implicit_midpoint": implicit_midpoint,
    "reversible_heun": reversible_heun,
    "euler_maruyama": euler_maruyama,
    "stochastic_heun": stochastic_heun,
}
"""One a solver; rf_solver is midpoint under another name."""


def processor_seconds(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


class Compared(NamedTuple):
    """One solver: microseconds a step of `integrate`, of the plain loop, and what lies between, with evaluations a step."""

    ours: Median
    plain: Median
    overhead: Median
    evaluations: float


def compare(name: str, plain: Callable[[Tensor], Tensor], x0: Tensor, repeats: int) -> Compared:
    """Processor time of both, run by turns."""
    flow = Flow(MODEL)

    def ours() -> Solution:
        noise = torch.Generator().manual_seed(0) if name in STOCHASTIC else None
        return integrate(flow, x0, steps=STEPS, method=name, generator=noise)

    def theirs() -> Tensor:
        with torch.no_grad():
            return plain(x0)

    solution = ours()
    torch.testing.assert_close(solution.x, theirs(), rtol=1e-4, atol=1e-4)
    for _ in range(10):
        ours(), theirs()
    taken = [(processor_seconds(ours), processor_seconds(theirs)) for _ in range(repeats)]
    steps = [(1e6 * a / STEPS, 1e6 * b / STEPS) for a, b in taken]
    return Compared(
        median([a for a, _ in steps]),
        median([b for _, b in steps]),
        median([a - b for a, b in steps]),
        solution.nfe / STEPS,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="runs of each loop (default 200)")
    parser.add_argument("--json", type=Path, help="also append one json line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x0 = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(0))
    print(f"microseconds a step, {STEPS} steps, one {WIDTH} x {WIDTH} linear layer, batch {BATCH}")
    print(f"{'solver':>18} {'NFE':>5} {'ours':>8} {'plain':>8} {'overhead':>9}   95 % interval")
    results = {}
    for name, plain in LOOPS.items():
        found = results[name] = compare(name, plain, x0, arguments.repeats)
        value, low, high = found.overhead
        print(
            f"{name:>18} {found.evaluations:5.1f} {found.ours.value:8.2f} {found.plain.value:8.2f} {value:9.2f}"
            f"   {low:.2f} to {high:.2f}"
        )
    if arguments.json is not None:
        figures = {name: result.overhead._asdict() for name, result in results.items()}
        settings = {"repeats": arguments.repeats, "torch": torch.__version__}
        with arguments.json.open("a") as file:
            file.write(json.dumps({"benchmark": "solver_loops", **settings, **figures}) + "\n")
    missing = {name for name, run in SOLVERS.items() if name not in LOOPS and run not in map(SOLVERS.get, LOOPS)}
    missing -= ADAPTIVE
    slow = [name for name, found in results.items() if found.overhead.low > BAR]
    for name in sorted(missing):
        print(f"not measured: {name}", file=sys.stderr)
    for name in slow:
        print(f"above {BAR:g} microseconds: {name}", file=sys.stderr)
    return 1 if missing or slow else 0


if __name__ == "__main__":
    sys.exit(main())
