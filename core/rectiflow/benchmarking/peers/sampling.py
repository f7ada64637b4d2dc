"""The same fixed-step solve in every library: the same network, grid and noise, results that are to be equal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rectiflow.benchmarking.contest import BARE, OURS, Contest, largest_difference
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

STEPS, BATCH, WIDTH = 50, 16, 64
METHODS = ("euler", "midpoint")
Solve = Callable[[], Tensor]


class Perceptron(nn.Module):
    """A network so small that the loop around it shows: two matrices, the time added in between."""

    def __init__(self, generator: torch.Generator, width: int = WIDTH) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / width**0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, width) at x (B, width) and t (B,)."""
        out: Tensor = self.second(torch.tanh(self.first(x) + t[:, None]))
        return out


class TimeThenState(nn.Module):
    """The network as torchdyn and torchdiffeq call it, at no more than a view's cost."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, t: Tensor, x: Tensor, *_: object, **__: object) -> Tensor:
        """Velocity at one time t () for all of x (B, width)."""
        out: Tensor = self.model(x, t.expand(len(x)))
        return out


def sampling(method: str, generator: torch.Generator) -> Contest:
    """Overhead of a step, over a bare loop, of a solve of 50 steps for a batch of 16."""
    model = Perceptron(generator).eval().requires_grad_(False)
    x0 = torch.randn(BATCH, WIDTH, generator=generator)
    makers: Makers[Solve] = {
        BARE: partial(_bare, model, x0, method),
        OURS: partial(_ours, model, x0, method),
        "torchdiffeq": partial(_torchdiffeq, model, x0, method),
        "torchdyn": partial(_torchdyn, model, x0, method),
        "flow_matching": partial(_flow_matching, model, x0, method),
    }
    if method == "euler":
        makers |= {
            "diffusers": partial(_diffusers, model, x0),
            "rectified-flow-pytorch": partial(_nano_flow, model, x0),
        }
    runs, missing = those_installed(makers)
    return Contest(
        "sampling",
        f"{method}, {STEPS} steps",
        runs,
        largest_difference,
        units=STEPS,
        missing=missing,
        note="overhead of a step: its time less that of a loop with everything hoisted out of it",
    )


def _bare(model: nn.Module, x0: Tensor, method: str) -> Solve:
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

    return {"euler": euler, "midpoint": midpoint}[method]


def _ours(model: nn.Module, x0: Tensor, method: str) -> Solve:
    flow = Flow(model)

    def solve() -> Tensor:
        end: Tensor = integrate(flow, x0, steps=STEPS, method=method).x
        return end

    return solve


def _torchdiffeq(model: nn.Module, x0: Tensor, method: str) -> Solve:
    from torchdiffeq import odeint

    field, grid = TimeThenState(model), torch.linspace(0, 1, STEPS + 1)

    def solve() -> Tensor:
        with torch.no_grad():
            end: Tensor = odeint(field, x0, grid, method=method)[-1]
        return end

    return solve


def _torchdyn(model: nn.Module, x0: Tensor, method: str) -> Solve:
    """The sampler of torchcfm's examples."""
    from torchdyn.core import NeuralODE

    grid = torch.linspace(0, 1, STEPS + 1)
    node = NeuralODE(TimeThenState(model), solver=method, sensitivity="adjoint")

    def solve() -> Tensor:
        with torch.no_grad():
            end: Tensor = node.trajectory(x0, t_span=grid)[-1]
        return end

    return solve


def _flow_matching(model: nn.Module, x0: Tensor, method: str) -> Solve:
    from flow_matching.solver import ODESolver

    solver = ODESolver(velocity_model=lambda x, t: model(x, t.expand(len(x))))
    grid = torch.linspace(0, 1, STEPS + 1)

    def solve() -> Tensor:
        end: Tensor = solver.sample(x_init=x0, step_size=None, method=method, time_grid=grid)
        return end

    return solve


def _diffusers(model: nn.Module, x0: Tensor) -> Solve:
    """A pipeline's loop around the flow-matching Euler scheduler, with our grid."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    sigmas = [1 - i / STEPS for i in range(STEPS)]

    def solve() -> Tensor:
        scheduler.set_timesteps(sigmas=sigmas)
        x = x0
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                noise = -model(x, (1 - timestep / 1000).expand(len(x)))
                x = scheduler.step(noise, timestep, x, return_dict=False)[0]
        return x

    return solve


def _nano_flow(model: nn.Module, x0: Tensor) -> Solve:
    from rectified_flow_pytorch import NanoFlow

    flow = NanoFlow(model, times_cond_kwarg="t", data_shape=x0.shape[1:])

    def solve() -> Tensor:
        with torch.no_grad():
            end: Tensor = flow.sample(steps=STEPS, batch_size=len(x0), noise=x0)
        return end

    return solve
