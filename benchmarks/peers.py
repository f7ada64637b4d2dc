"""Ours beside the libraries of the field, in one interleaved run: overhead a step, equality of results, transport, dopri5.

Every sampler solves the same network on the same grid from the same noise. Runs alternate in turning order, so that a busy
machine slows all alike; the overhead of a step is each run's time less that of a bare Python loop in the same round. Medians
come with a distribution-free 95 % interval from order statistics. Peers that are not installed are named and left out:

    pip install -c constraints.txt -e ".[bench]"      # flow_matching is CC-BY-NC: for measuring only
    python benchmarks/peers.py [--repeats 100] [--threads 1] [--json results.json]

Exit status 1: a sampler's result differs from ours by more than 1e-5, or a plan costs another amount.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from solver_overhead import Median, median
from torch import Tensor, nn

from rectiflow.analytic import MixtureFlow
from rectiflow.couplings import MinibatchOT
from rectiflow.diagnostics import transport_cost
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

STEPS, BATCH, WIDTH = 50, 16, 64
METHODS = ("euler", "midpoint")
TOLERANCE = 1e-5
LEVELS = tuple(10.0**-k for k in range(3, 10))
Run = Callable[[], Tensor]
Field = Callable[[Tensor, Tensor], Tensor]


class Spent(NamedTuple):
    """What one run took, in seconds: on the clock, and of the processor, which other programs do not lengthen."""

    clock: float
    processor: float


class Row(NamedTuple):
    """One line of the table: who, what, and the figures by name."""

    peer: str
    task: str
    figures: dict[str, Median | float]


class Perceptron(nn.Module):
    """A network small enough that the loop around it shows: two matrices, the time added in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(x) + t[:, None]))
        return out


class TimeThenState(nn.Module):
    """The network as torchdyn and torchdiffeq call it, at no more than a stride-0 view's cost."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, t: Tensor, x: Tensor, *_: object, **__: object) -> Tensor:
        out: Tensor = self.model(x, t.expand(len(x)))
        return out


def spent(run: Callable[[], object]) -> Spent:
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return Spent(time.perf_counter() - clock, time.process_time() - processor)


def bare(model: nn.Module, x0: Tensor) -> Iterator[tuple[str, Run]]:
    """The least that Python can do: everything hoisted out of the loop."""
    h = 1 / STEPS
    starts = [torch.full((BATCH,), i * h) for i in range(STEPS)]
    middles = [torch.full((BATCH,), (i + 0.5) * h) for i in range(STEPS)]

    def euler() -> Tensor:
        x = x0
        with torch.no_grad():
            for t in starts:
                x = torch.add(x, model(x, t), alpha=h)
        return x

    def midpoint() -> Tensor:
        x = x0
        with torch.no_grad():
            for t, middle in zip(starts, middles, strict=True):
                x = torch.add(x, model(torch.add(x, model(x, t), alpha=h / 2), middle), alpha=h)
        return x

    yield from {"euler": euler, "midpoint": midpoint}.items()


def ours(model: nn.Module, x0: Tensor) -> Iterator[tuple[str, Run]]:
    flow = Flow(model)
    for method in METHODS:
        yield method, functools.partial(_solve, flow, x0, method)


def _solve(flow: Flow, x0: Tensor, method: str) -> Tensor:
    end: Tensor = integrate(flow, x0, steps=STEPS, method=method).x
    return end


def torchdiffeq(model: nn.Module, x0: Tensor) -> Iterator[tuple[str, Run]]:
    from torchdiffeq import odeint

    field, grid = TimeThenState(model), torch.linspace(0, 1, STEPS + 1)
    for method in METHODS:
        yield method, torch.no_grad()(lambda method=method: odeint(field, x0, grid, method=method)[-1])


def torchdyn(model: nn.Module, x0: Tensor) -> Iterator[tuple[str, Run]]:
    """The sampler of torchcfm's examples."""
    from torchdyn.core import NeuralODE

    grid = torch.linspace(0, 1, STEPS + 1)
    for method in METHODS:
        node = NeuralODE(TimeThenState(model), solver=method, sensitivity="adjoint")
        yield method, torch.no_grad()(lambda node=node: node.trajectory(x0, t_span=grid)[-1])


def flow_matching(model: nn.Module, x0: Tensor) -> Iterator[tuple[str, Run]]:
    from flow_matching.solver import ODESolver

    solver = ODESolver(velocity_model=lambda x, t: model(x, t.expand(len(x))))
    grid = torch.linspace(0, 1, STEPS + 1)
    for method in METHODS:
        yield (
            method,
            lambda method=method: solver.sample(x_init=x0, step_size=None, method=method, time_grid=grid),
        )


def diffusers(model: nn.Module, x0: Tensor) -> Iterator[tuple[str, Run]]:
    """A pipeline's loop around the flow-matching Euler scheduler, with our sigmas."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    sigmas = [1 - i / STEPS for i in range(STEPS)]

    def euler() -> Tensor:
        scheduler.set_timesteps(sigmas=sigmas)
        x = x0
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                noise = -model(x, (1 - timestep / 1000).expand(len(x)))
                x = scheduler.step(noise, timestep, x, return_dict=False)[0]
        return x

    yield "euler", euler


def samplers(repeats: int, generator: torch.Generator, skipped: dict[str, str]) -> list[Row]:
    """Overhead a step of each sampler, and the largest difference of its result from ours."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Perceptron().eval()
    x0 = torch.randn(BATCH, WIDTH, generator=generator)
    runs: dict[tuple[str, str], Run] = {}
    for peer in (bare, ours, torchdiffeq, torchdyn, flow_matching, diffusers):
        try:
            runs |= {(peer.__name__, method): run for method, run in peer(model, x0)}
        except ImportError as error:
            skipped[peer.__name__] = str(error)
    ends = {key: run() for key, run in runs.items()}
    for _ in range(5):  # warm caches and the allocator
        for run in runs.values():
            run()
    order = list(runs)
    taken: dict[tuple[str, str], list[Spent]] = {key: [] for key in runs}
    for turn in range(repeats):
        for key in order[turn % len(order) :] + order[: turn % len(order)]:
            taken[key].append(spent(runs[key]))
    rows = []
    for peer, method in runs:
        pairs = list(zip(taken[peer, method], taken["bare", method], strict=True))
        figures: dict[str, Median | float] = {
            "us_a_step": median([1e6 * run.clock / STEPS for run, _ in pairs]),
            "overhead_us": median([1e6 * (run.clock - least.clock) / STEPS for run, least in pairs]),
            "overhead_cpu_us": median([1e6 * (run.processor - least.processor) / STEPS for run, least in pairs]),
            "difference": float((ends[peer, method] - ends["ours", method]).abs().max()),
        }
        rows.append(Row(peer, f"{method}, {STEPS} steps", figures))
    return rows


def transport(size: int, repeats: int, generator: torch.Generator, skipped: dict[str, str]) -> list[Row]:
    """Time and mean squared distance of one exact minibatch coupling, noise against a shifted, wider normal."""
    batches = [
        (torch.randn(size, WIDTH, generator=generator), 1 + 2 * torch.randn(size, WIDTH, generator=generator))
        for _ in range(repeats)
    ]
    coupling, pairs = MinibatchOT(), [MinibatchOT()(*batch) for batch in batches]
    costs = [float(transport_cost(pair.x0, pair.x1)) for pair in pairs]
    timed: dict[str, list[Spent]] = {"ours": []}
    figures: dict[str, dict[str, Median | float]] = {"ours": {"cost": sum(costs) / repeats, "rows_used": 1.0}}
    runs: dict[str, Callable[[Tensor, Tensor], object]] = {"ours": coupling}
    try:
        from torchcfm.optimal_transport import OTPlanSampler
    except ImportError as error:
        skipped["torchcfm"] = str(error)
    else:
        sampler = OTPlanSampler(method="exact")
        plans = [torch.from_numpy(sampler.get_map(*batch)) for batch in batches]
        theirs = [float((plan * torch.cdist(*batch) ** 2).sum()) for plan, batch in zip(plans, batches, strict=True)]
        used = [len(torch.unique(sampler.sample_plan(*batch)[1], dim=0)) / size for batch in batches]
        figures["torchcfm"] = {"cost": sum(theirs) / repeats, "rows_used": sum(used) / repeats}
        runs["torchcfm"], timed["torchcfm"] = sampler.sample_plan, []
    for turn, batch in enumerate(batches):
        for name in sorted(runs, reverse=bool(turn % 2)):
            timed[name].append(spent(functools.partial(runs[name], *batch)))
    for name, runs_of in timed.items():
        figures[name] |= {
            f"{what}_ms": median([1e3 * run[i] for run in runs_of]) for i, what in enumerate(Spent._fields)
        }
    return [Row(name, f"exact OT, B = {size}", figures[name]) for name in runs]


def adaptive(generator: torch.Generator, skipped: dict[str, str]) -> list[Row]:
    """Evaluations that dopri5 spends for the error it reaches, on the closed-form flow to eight modes in the plane."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    mixture = MixtureFlow([1.0] * 8, means, 0.1 * torch.eye(2, dtype=torch.float64).expand(8, 2, 2))
    x0 = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    exact = integrate(mixture.flow(), x0, steps=1000, method="rk4").x

    def error(x: Tensor) -> float:
        return float((x - exact).square().mean().sqrt())

    solutions = [integrate(mixture.flow(), x0, method="dopri5", rtol=level, atol=level) for level in LEVELS]
    mine = [(error(solution.x), solution.nfe) for solution in solutions]
    rows = [
        Row("ours", f"dopri5, tolerance {level:.0e}", _spent(*point)) for level, point in zip(LEVELS, mine, strict=True)
    ]
    try:
        from torchdiffeq import odeint
    except ImportError as failure:
        skipped["torchdiffeq"] = str(failure)
        return rows
    theirs = []
    for level in LEVELS:
        asked: list[float] = []

        def field(t: Tensor, x: Tensor, asked: list[float] = asked) -> Tensor:
            asked.append(float(t))
            return mixture.velocity(x, t.expand(len(x)))

        end = odeint(field, x0, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=level, atol=level, method="dopri5")
        theirs.append((error(end[-1]), len(asked)))
        rows.append(Row("torchdiffeq", f"dopri5, tolerance {level:.0e}", _spent(*theirs[-1])))
    ratios = [nfe / at_error(size, theirs) for size, nfe in mine if theirs[-1][0] <= size <= theirs[0][0]]
    figures = {"nfe_ratio": sum(ratios) / len(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return [*rows, Row("ours / torchdiffeq", "dopri5, NFE at equal error", dict(figures))]


def _spent(error: float, nfe: int) -> dict[str, Median | float]:
    return {"nfe": float(nfe), "error": error}


def at_error(size: float, points: Sequence[tuple[float, int]]) -> float:
    """Evaluations at an error, between measured ones along straight lines of the logarithms; errors fall along `points`."""
    for (e0, n0), (e1, n1) in itertools.pairwise(points):
        if e1 <= size <= e0:
            share = math.log(e0 / size) / math.log(e0 / e1)
            return math.exp(math.log(n0) + share * math.log(n1 / n0))
    raise ValueError(f"error {size:g} lies outside the measured {points[-1][0]:g} to {points[0][0]:g}")


def wrong(rows: Sequence[Row]) -> list[str]:
    """Rows whose result is not ours."""
    found = [f"{row.peer}, {row.task}" for row in rows if row.figures.get("difference", 0.0) > TOLERANCE]
    costs: dict[str, list[float]] = {}
    for row in rows:
        if "cost" in row.figures:
            costs.setdefault(row.task, []).append(float(row.figures["cost"]))
    return found + [task for task, values in costs.items() if max(values) - min(values) > TOLERANCE * max(values)]


def show(value: Median | float) -> str:
    if isinstance(value, Median):
        return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
    return f"{value:.0f}" if value.is_integer() and abs(value) >= 2 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100, help="rounds of the samplers (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--json", type=Path, help="also append one json line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator, skipped = torch.Generator().manual_seed(0), dict[str, str]()
    rows = samplers(arguments.repeats, generator, skipped)
    rows += transport(256, max(5, arguments.repeats // 4), generator, skipped)
    rows += transport(1024, max(5, arguments.repeats // 10), generator, skipped)
    rows += adaptive(generator, skipped)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} rounds, load {load:.1f}")
    for peer, reason in skipped.items():
        print(f"left out: {peer} ({reason})")
    for row in rows:
        figures = "   ".join(f"{name} {show(value)}" for name, value in row.figures.items())
        print(f"{row.peer:19} {row.task:27} {figures}")
    problems = wrong(rows)
    for problem in problems:
        print(f"differs from ours: {problem}", file=sys.stderr)
    if arguments.json is not None:
        versions = {name: version(name) for name in (*_installed(skipped), "torch")}
        record = {"benchmark": "peers", "load": load, "versions": versions, "left_out": skipped}
        record |= {"threads": arguments.threads, "repeats": arguments.repeats}
        plain = {k: {n: v._asdict() if isinstance(v, Median) else v for n, v in f.items()} for k, f in _keyed(rows)}
        with arguments.json.open("a") as file:
            file.write(json.dumps(record | {"rows": plain}) + "\n")
    return 1 if problems else 0


def _installed(skipped: dict[str, str]) -> list[str]:
    return [
        name for name in ("torchdiffeq", "torchdyn", "torchcfm", "flow_matching", "diffusers") if name not in skipped
    ]


def _keyed(rows: Sequence[Row]) -> list[tuple[str, dict[str, Median | float]]]:
    return [(f"{row.peer}: {row.task}", row.figures) for row in rows]


if __name__ == "__main__":
    sys.exit(main())
