"""How near to the exact end of one known flow every library's solvers come for a number of evaluations.

The flow carries noise to eight narrow modes on a circle; its velocity is known in closed form, so no network stands between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.analytic import MixtureFlow
from rectiflow.benchmarking.contest import OURS
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow.sampling import integrate

POINTS = 256
BUDGETS = (4, 8, 16, 32)
LEVELS = tuple(10.0**-k for k in range(3, 10))
SOLVERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "ab2": 1, "dpm++2m": 1, "unipc": 1, "ddim": 1}
"""Ours that are compared at fixed budgets, with the evaluations that a step takes."""


class Point(NamedTuple):
    """A solver of someone's at a budget: root mean squared distance from the exact end, and evaluations made."""

    peer: str
    method: str
    error: float
    nfe: int


class Known:
    """The flow, its noise (256, 2) and where that must end; it counts how often it is asked."""

    def __init__(self, generator: torch.Generator) -> None:
        angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        means = 3 * torch.stack([angle.cos(), angle.sin()], 1)
        spread = 0.1 * torch.eye(2, dtype=torch.float64).expand(8, 2, 2)
        self.mixture = MixtureFlow([1.0] * 8, means, spread)
        self.x0 = torch.randn(POINTS, 2, generator=generator, dtype=torch.float64)
        self.end = integrate(self.mixture.flow(), self.x0, method="dopri5", rtol=1e-12, atol=1e-12).x
        self.asked = 0

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """At x (B, 2) and one time t ()."""
        self.asked += 1
        return self.mixture.velocity(x, t.to(x.dtype).expand(len(x)))

    def point(self, peer: str, method: str, solve: Callable[[], Tensor]) -> Point:
        """Solve once, and say how far from the end it came."""
        self.asked = 0
        reached = solve().double()
        return Point(peer, method, float((reached - self.end).square().sum(1).mean().sqrt()), self.asked)


def fixed_budgets(known: Known) -> tuple[dict[str, list[Point]], dict[str, str]]:
    """Everyone's fixed-step solvers at 4, 8, 16 and 32 evaluations; and who is missing, with the command."""
    makers: Makers[list[Point]] = {
        OURS: lambda: list(_ours(known)),
        "torchdiffeq": lambda: list(_torchdiffeq(known)),
        "flow_matching": lambda: list(_flow_matching(known)),
        "diffusers": lambda: list(_diffusers(known)),
        "rectified-flow-pytorch": lambda: list(_nano_flow(known)),
    }
    return those_installed(makers)


def adaptive(known: Known) -> tuple[dict[str, list[Point]], dict[str, str]]:
    """dopri5 of ours and of torchdiffeq's at tolerances from 1e-3 to 1e-9."""
    makers: Makers[list[Point]] = {
        OURS: lambda: [_our_dopri5(known, level) for level in LEVELS],
        "torchdiffeq": lambda: [_their_dopri5(known, level) for level in LEVELS],
    }
    return those_installed(makers)


def equal_error_ratios(ours: Sequence[Point], theirs: Sequence[Point]) -> list[float]:
    """Our evaluations over theirs at the errors that we reached and their curve spans; errors fall along both."""
    spanned = [point for point in ours if theirs[-1].error <= point.error <= theirs[0].error]
    return [point.nfe / _evaluations_at(point.error, theirs) for point in spanned]


def _evaluations_at(error: float, points: Sequence[Point]) -> float:
    """Between measured points along straight lines of the logarithms."""
    for high, low in itertools.pairwise(points):
        if low.error <= error <= high.error:
            share = math.log(high.error / error) / math.log(high.error / low.error)
            return math.exp(math.log(high.nfe) + share * math.log(low.nfe / high.nfe))
    return math.nan


def _ours(known: Known) -> Iterator[Point]:
    flow = known.mixture.flow()
    for method, price in SOLVERS.items():
        for budget in BUDGETS:
            # A second-order multistep method may spend one evaluation more on its first step; its own count is kept.
            solution = integrate(flow, known.x0, steps=budget // price, method=method)
            point = known.point(OURS, method, lambda solution=solution: solution.x)  # type: ignore[misc]
            yield point._replace(nfe=solution.nfe)


def _torchdiffeq(known: Known) -> Iterator[Point]:
    from torchdiffeq import odeint

    for method, price in {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}.items():
        for budget in BUDGETS:
            grid = torch.linspace(0, 1, budget // price + 1, dtype=torch.float64)
            yield known.point(
                "torchdiffeq",
                method,
                lambda method=method, grid=grid: odeint(  # type: ignore[misc]
                    lambda t, x: known.velocity(x, t), known.x0, grid, method=method
                )[-1],
            )


def _flow_matching(known: Known) -> Iterator[Point]:
    from flow_matching.solver import ODESolver

    solver = ODESolver(velocity_model=known.velocity)
    for method, price in {"euler": 1, "midpoint": 2}.items():
        for budget in BUDGETS:
            grid = torch.linspace(0, 1, budget // price + 1, dtype=torch.float64)
            yield known.point(
                "flow_matching",
                method,
                lambda method=method, grid=grid: solver.sample(  # type: ignore[misc]
                    x_init=known.x0, step_size=None, method=method, time_grid=grid
                ),
            )


def _diffusers(known: Known) -> Iterator[Point]:
    """Its flow-matching schedulers, each with the grid that it makes itself for so many steps; float32 is all they keep."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

    for method, scheduler_of in {
        "euler": FlowMatchEulerDiscreteScheduler,
        "heun": FlowMatchHeunDiscreteScheduler,
    }.items():
        for budget in BUDGETS:
            scheduler = scheduler_of()

            def solve(scheduler: object = scheduler, method: str = method, budget: int = budget) -> Tensor:
                return _through_scheduler(known, scheduler, method, budget)

            yield known.point("diffusers", method, solve)


def _through_scheduler(known: Known, scheduler: object, method: str, budget: int) -> Tensor:
    if method == "euler":
        scheduler.set_timesteps(sigmas=[1 - i / budget for i in range(budget)])  # type: ignore[attr-defined]
    else:
        scheduler.set_timesteps(max(2, budget // 2))  # type: ignore[attr-defined]
    x = known.x0.float()
    for timestep in scheduler.timesteps:  # type: ignore[attr-defined]
        noise = -known.velocity(x.double(), 1 - timestep.double() / 1000).float()
        x = scheduler.step(noise, timestep, x, return_dict=False)[0]  # type: ignore[attr-defined]
    return x


def _nano_flow(known: Known) -> Iterator[Point]:
    from rectified_flow_pytorch import NanoFlow

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return known.velocity(x, t[0])

    flow = NanoFlow(Field(), times_cond_kwarg="t", data_shape=(2,))
    for budget in BUDGETS:
        yield known.point(
            "rectified-flow-pytorch",
            "euler",
            lambda budget=budget: flow.sample(steps=budget, batch_size=POINTS, noise=known.x0),  # type: ignore[misc]
        )


def _our_dopri5(known: Known, level: float) -> Point:
    solution = integrate(known.mixture.flow(), known.x0, method="dopri5", rtol=level, atol=level)
    return known.point(OURS, f"dopri5 {level:.0e}", lambda: solution.x)._replace(nfe=solution.nfe)


def _their_dopri5(known: Known, level: float) -> Point:
    from torchdiffeq import odeint

    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return known.point(
        "torchdiffeq",
        f"dopri5 {level:.0e}",
        lambda: odeint(lambda t, x: known.velocity(x, t), known.x0, ends, rtol=level, atol=level, method="dopri5")[-1],
    )
