"""The same training in our loop, in a bare PyTorch loop, and with other libraries' losses: equal weights at the end."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.benchmarking.contest import OURS, Contest, largest_difference
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow.flow import Flow
from rectiflow.matching import FlowMatching
from rectiflow.training.batches import BatchOrder
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow.training.randomness import step_generator
from rectiflow.training.schedule import learning_rate

WIDTH = 64
SAMPLES = 2048
BARE_LOOP = "PyTorch loop"
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""Loss of a network for x0 (B, D), x1 (B, D) and t (B,)."""


class ResidualNetwork(nn.Module):
    """Residual layers of SiLU between two matrices; the time is one more number of the input."""

    def __init__(self, width: int, depth: int, generator: torch.Generator, state: int = WIDTH) -> None:
        super().__init__()
        self.input = nn.Linear(state + 1, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.output = nn.Linear(width, state)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, state) at x (B, state) and t (B,)."""
        hidden = self.input(torch.cat([x, t[:, None]], 1))
        for layer in self.layers:
            hidden = hidden + nn.functional.silu(layer(hidden))
        out: Tensor = self.output(hidden)
        return out


class Rows:
    """Points (N, D) as data."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(self.points[indices])


class Trained(NamedTuple):
    """All weights in one row, and the (processor, elapsed) times at which each update began."""

    weights: Tensor
    begun: list[tuple[float, float]]

    def spent(self) -> tuple[float, float]:
        """Seconds from the first update to the last, set-up left out."""
        (processor, clock), (later_processor, later_clock) = self.begun[0], self.begun[-1]
        return later_processor - processor, later_clock - clock


def now() -> tuple[float, float]:
    """Processor and elapsed seconds."""
    return time.process_time(), time.perf_counter()


@dataclass
class Plain:
    """Flow matching of one network, with neither conditions nor previews; it notes when each update begins."""

    network: nn.Module
    begun: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.method, self.flow = FlowMatching(), Flow(self.network)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch."""
        self.begun.append(now())
        if self.flow.model is not network:
            self.flow = Flow(network)
        return self.method.loss(self.flow, batch, generator)

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Nothing."""
        return {}


def training(width: int, depth: int, batch: int, steps: int, generator: torch.Generator) -> Contest:
    """Time of one update: loss, backward pass, clipping, AdamW, averaged weights and the check that all is finite."""
    network = ResidualNetwork(width, depth, generator)
    points = 1 + 2 * torch.randn(SAMPLES, WIDTH, generator=generator)
    options = TrainingOptions(steps=steps, batch=batch, warmup=1, accelerator="cpu", learning_rate=1e-3)
    makers: Makers[Callable[[], Trained]] = {
        OURS: lambda: partial(_ours, network, points, options),
        BARE_LOOP: lambda: partial(_bare, network, points, options, bare_loss),
        "torchcfm": lambda: partial(_bare, network, points, options, _torchcfm()),
        "flow_matching": lambda: partial(_bare, network, points, options, _flow_matching()),
        "rectified-flow-pytorch": lambda: partial(_bare, network, points, options, _nano_flow()),
    }
    runs, missing = those_installed(makers)
    size = sum(parameter.numel() for parameter in network.parameters())
    return Contest(
        "training",
        f"{size / 1e6:.2g} M parameters, batch {batch}",
        runs,
        lambda ours, theirs: largest_difference(ours.weights, theirs.weights),
        tolerance=1e-4,
        units=steps - 1,
        unit="update",
        spent=Trained.spent,
        missing=missing,
        note="every loop has fused AdamW, clipping, averaged weights and a finite check; difference: of all weights at the end",
    )


def _ours(network: nn.Module, points: Tensor, options: TrainingOptions) -> Trained:
    task = Plain(copy.deepcopy(network))
    with contextlib.redirect_stdout(io.StringIO()):
        fit(task, Rows(points), options)
    return Trained(torch.cat([parameter.detach().flatten() for parameter in task.network.parameters()]), task.begun)


def _bare(network: nn.Module, points: Tensor, options: TrainingOptions, loss_of: Loss) -> Trained:
    """What one would write by hand, with our streams of batches and draws, so that the weights must come out equal."""
    model = copy.deepcopy(network)
    parameters = list(model.parameters())
    live = [parameter.detach() for parameter in parameters]
    average = [parameter.clone() for parameter in live]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    order = BatchOrder(len(points), options.batch, options.seed)
    begun = []
    for step in range(options.steps):
        draw = step_generator(options.seed, step, 0, 0)
        x1 = points[order.indices(step)]
        begun.append(now())
        x0 = torch.randn(x1.shape, generator=draw)
        t = torch.rand(len(x1), generator=draw)
        loss = loss_of(model, x0, x1, t)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, options.clip, error_if_nonfinite=True)
        optimizer.param_groups[0]["lr"] = learning_rate(step, options)
        optimizer.step()
        torch._foreach_lerp_(average, live, 1 - min(options.ema, (1 + step) / (10 + step)))
        optimizer.zero_grad()
    return Trained(torch.cat([value.flatten() for value in live]), begun)


def bare_loss(model: nn.Module, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Flow matching on the straight path in three lines."""
    velocity = x1 - x0
    error: Tensor = (model(x0 + t[:, None] * velocity, t) - velocity).square().mean()
    return error


def _torchcfm() -> Loss:
    from torchcfm import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(model: nn.Module, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        t, xt, velocity = matcher.sample_location_and_conditional_flow(x0, x1, t)
        error: Tensor = (model(xt, t) - velocity).square().mean()
        return error

    return loss


def _flow_matching() -> Loss:
    from flow_matching.path import CondOTProbPath

    path = CondOTProbPath()

    def loss(model: nn.Module, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        place = path.sample(x_0=x0, x_1=x1, t=t)
        error: Tensor = (model(place.x_t, place.t) - place.dx_t).square().mean()
        return error

    return loss


def _nano_flow() -> Loss:
    from rectified_flow_pytorch import NanoFlow

    def loss(model: nn.Module, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        # It shortens times by one part in max_timesteps; so many that float32 does not see it.
        flow = NanoFlow(model, times_cond_kwarg="t", max_timesteps=1 << 30)
        found: Tensor = flow(x1, noise=x0, times=t)
        return found

    return loss
