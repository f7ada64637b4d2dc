"""What the same network learns from each library's loss, with the same data, draws' laws and number of updates.

Noise is carried to a chequerboard in the plane. Each library brings its own interpolation and coupling; optimiser, batches and
sampler are one. Quality is the sliced Wasserstein distance to fresh data, by Euler's method, at 2 and 32 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.benchmarking.contest import OURS
from rectiflow.benchmarking.peers.present import Makers, those_installed, untouched
from rectiflow.benchmarking.peers.training import ResidualNetwork
from rectiflow.couplings import MinibatchOT
from rectiflow.flow import Flow
from rectiflow.matching import FlowMatching
from rectiflow.metrics import sliced_wasserstein
from rectiflow.sampling import integrate

BATCH, WIDTH, DEPTH, RATE = 256, 64, 2, 2e-3
STEPS = (2, 32)
JUDGED = 2048
Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""Loss of a network for data (B, 2)."""


def losses() -> tuple[dict[str, Loss], dict[str, str]]:
    """Everyone's loss by name, and who is missing, with the command."""
    makers: Makers[Loss] = {
        OURS: lambda: partial(_ours, FlowMatching()),
        f"{OURS}, optimal transport": lambda: partial(_ours, FlowMatching(coupling=MinibatchOT())),
        "torchcfm": lambda: _torchcfm("ConditionalFlowMatcher"),
        "torchcfm, optimal transport": lambda: _torchcfm("ExactOptimalTransportConditionalFlowMatcher"),
        "flow_matching": _flow_matching,
        "rectified-flow-pytorch": _nano_flow,
    }
    return those_installed(makers)


def chequerboard(count: int, generator: torch.Generator) -> Tensor:
    """Points (N, 2) of the dark squares of a board of four by four that spans [-2, 2]."""
    column = torch.randint(4, (count,), generator=generator)
    row = 2 * torch.randint(2, (count,), generator=generator) + column % 2
    return torch.stack([column, row], 1) - 2 + torch.rand(count, 2, generator=generator)


def learn(loss_of: Loss, updates: int, seed: int) -> dict[str, float]:
    """Train a fresh network and return its distances from data, by number of steps."""
    generator = torch.Generator().manual_seed(seed)
    network = ResidualNetwork(WIDTH, DEPTH, generator, state=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    with untouched():
        torch.manual_seed(seed)  # where a library draws from torch's own generator
        for _ in range(updates):
            loss = loss_of(network, chequerboard(BATCH, generator), generator)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    network.requires_grad_(False)
    x0 = torch.randn(JUDGED, 2, generator=generator)
    data = chequerboard(JUDGED, generator)
    return {
        f"distance_{steps}": float(
            sliced_wasserstein(integrate(Flow(network), x0, steps=steps).x, data, generator=generator)
        )
        for steps in STEPS
    }


def _ours(method: FlowMatching, network: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
    return method.loss(Flow(network), Batch(x1), generator)[0]


def _torchcfm(name: str) -> Loss:
    import torchcfm

    matcher = getattr(torchcfm, name)(sigma=0.0)

    def loss(network: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
        x0 = torch.randn(x1.shape, generator=generator)
        t, xt, velocity = matcher.sample_location_and_conditional_flow(x0, x1)
        error: Tensor = (network(xt, t) - velocity).square().mean()
        return error

    return loss


def _flow_matching() -> Loss:
    from flow_matching.path import CondOTProbPath

    path = CondOTProbPath()

    def loss(network: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
        x0, t = torch.randn(x1.shape, generator=generator), torch.rand(len(x1), generator=generator)
        place = path.sample(x_0=x0, x_1=x1, t=t)
        error: Tensor = (network(place.x_t, place.t) - place.dx_t).square().mean()
        return error

    return loss


def _nano_flow() -> Loss:
    from rectified_flow_pytorch import NanoFlow

    def loss(network: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
        found: Tensor = NanoFlow(network, times_cond_kwarg="t")(x1)
        return found

    return loss
