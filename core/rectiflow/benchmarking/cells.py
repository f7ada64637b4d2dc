"""One cell of the study of domains: a flow, a solver and a number of evaluations; its quality and its cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size
from rectiflow.benchmarking.normalised import normalised
from rectiflow.benchmarking.subject import FINE, Subject, Yardstick
from rectiflow.drawing import Drawn, carry
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import ADAPTIVE, STOCHASTIC
from rectiflow.verbs.boss import BOSS, check_method

OWN = "own"


def check_solvers(names: list[str]) -> None:
    """Refuse what is neither a solver, `boss` nor `own`.

    Raises:
        ConfigError: as said.
    """
    for name in names:
        if name != OWN:
            check_method(name)
        if name in STOCHASTIC:
            raise ConfigError(f"solver {name!r} draws noise; this study compares solvers from the same noise alone")


@cache
def steps_for(method: str, nfe: int, predicts: Prediction) -> int | None:
    """Steps of a solver that cost so many evaluations, found by counting; None where no number of steps does.

    What the flow predicts matters: rk4 saves an evaluation where it ends on predicted data.
    """
    if method == BOSS:
        return nfe if 1 < nfe <= FINE else None  # the grid of one step has no time to choose
    still = Flow(lambda x, t: torch.zeros_like(x), predicts=predicts)
    counts = [integrate(still, torch.ones(1, 1), steps=steps, method=method).nfe for steps in (2, 3)]
    each = counts[1] - counts[0]
    steps = 2 + round((nfe - counts[0]) / each)
    found = steps >= 1 and integrate(still, torch.ones(1, 1), steps=steps, method=method).nfe == nfe
    return steps if found else None


class Meter:
    """Time of solves, and of the network in them: of the processor, or by the clock where the work is done elsewhere."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.samples = 0
        self.total = 0.0
        self.network = 0.0
        self.wall = 0.0

    def around(self, flow: Flow) -> Flow:
        """The flow with a network that is watched."""

        def model(x: Any, t: Tensor, **cond: Any) -> Any:
            started = self._clock()
            found = flow.model(x, t, **cond)
            self.network += self._clock() - started
            return found

        return replace(flow, model=model)

    def solve(self, flow: Flow, x0: State, cond: Cond, how: dict[str, Any]) -> Drawn:
        """Samples, as `carry` draws them, on the meter."""
        started = self._clock()
        drawn = carry(flow, x0, cond, **how)
        self.total += self._clock() - started
        self.wall += drawn.seconds
        self.samples += batch_size(x0)
        return drawn

    def figures(self) -> dict[str, float]:
        """Milliseconds a sample, those by the clock, and the network's share of them."""
        return {
            "ms": 1000 * self.total / self.samples,
            "wall_ms": 1000 * self.wall / self.samples,
            "network_share": self.network / self.total if self.total else math.nan,
        }


def clock_of(device: torch.device) -> tuple[str, Callable[[], float]]:
    """What time is measured by: the processor's own, which other programs hardly disturb, where it does the work."""
    if device.type == "cpu":
        return "processor", time.process_time

    def wall() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return "clock", wall


def measure_cell(
    subject: Subject, yardstick: Yardstick, solver: str, nfe: int | None, tolerance: float, max_nfe: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Figures of a cell and their intervals, where the domain gives them; `nfe` is None for an adaptive solver.

    The figures are the domain's primary ones, `normalised`, the evaluations counted (`nfe`), and `Meter.figures`.

    Raises:
        RectiflowError: the solver cannot move in the flow's space, gave NaN, or spent `max_nfe`.
    """
    how: dict[str, Any] = subject.how()
    if solver in ADAPTIVE:
        how |= {"method": solver, "steps": 0, "tolerances": {"rtol": tolerance, "atol": tolerance, "max_nfe": max_nfe}}
    elif solver == BOSS:
        how |= {"method": "euler", "steps": 0, "times": subject.step_costs.optimal_times(nfe or 1)}
    else:
        how |= {"method": solver, "steps": steps_for(solver, nfe or 1, subject.flow.predicts)}
    meter = Meter(clock_of(subject.trained.device)[1])
    flow = meter.around(subject.flow)
    domain = subject.trained.domain
    drawn, found = domain.measure(
        lambda x0, cond: meter.solve(flow, x0, cond, how), subject.x0, subject.cond, subject.seed
    )
    figures = {name: value for name, value in found.items() if name in subject.shown}
    value, floor, baseline = (
        values.get(subject.metric.name, math.nan) for values in (found, yardstick.floor, yardstick.baseline)
    )
    figures["normalised"] = normalised(value, floor, baseline, subject.metric.better)
    intervals = {
        name: (found[f"{name}_low"], found[f"{name}_high"]) for name in subject.shown if f"{name}_low" in found
    }
    return {**figures, "nfe": drawn.nfe, **meter.figures()}, intervals
