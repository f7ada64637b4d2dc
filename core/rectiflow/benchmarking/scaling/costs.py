"""What is measured at several sizes: pieces of the core, and each domain's network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rectiflow.batch import Cond, State
from rectiflow.benchmarking.peers.sampling import Perceptron
from rectiflow.benchmarking.quick_models import NAME
from rectiflow.benchmarking.subject import demo_runs
from rectiflow.config import compose_training
from rectiflow.couplings import MinibatchOT
from rectiflow.domain import Domain, DomainSpec, build
from rectiflow.drawing import carry, draw_sources
from rectiflow.flow import Flow
from rectiflow.nn.transformer import AdaptiveBlock
from rectiflow.sampling import integrate
from rectiflow.trained import new_network, open_run
from rectiflow.training.checkpoint import checkpoint_folders

Run = Callable[[], object]


@dataclass(frozen=True)
class Axis:
    """One way in which something grows.

    Attributes:
        case: what it is.
        name: of what grows.
        sizes: ascending.
        prepare: size -> what is then timed.
    """

    case: str
    name: str
    sizes: Sequence[int]
    prepare: Callable[[int], Run]


def core_axes(generator: torch.Generator) -> list[Axis]:
    """A transformer's forward and backward pass by batch, tokens and width; a solve by evaluations; a coupling by batch."""
    block = "transformer block, forward and backward"
    return [
        Axis(block, "batch", (1, 2, 4, 8, 16, 32), lambda size: _block(size, 64, 64, generator)),
        Axis(block, "tokens", (16, 32, 64, 128, 256, 512, 1024), lambda size: _block(2, size, 64, generator)),
        Axis(block, "width", (32, 64, 128, 256, 512), lambda size: _block(4, 64, size, generator)),
        Axis("Euler's method around a perceptron", "evaluations", (4, 8, 16, 32, 64), partial(_solve, generator)),
        Axis("exact minibatch transport", "batch", (64, 128, 256, 512, 1024), partial(_couple, generator)),
    ]


class Block(nn.Module):
    """An adaptive block, made ready to be differentiated."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.block = AdaptiveBlock(width, max(1, width // 32), generator=generator)

    def run(self, x: Tensor, condition: Tensor) -> None:
        """Forward and backward pass of tokens (B, N, width)."""
        self.block(x, condition).square().mean().backward()


def _block(batch: int, tokens: int, width: int, generator: torch.Generator) -> Run:
    block = Block(width, generator)
    x = torch.randn(batch, tokens, width, generator=generator)
    return partial(block.run, x, torch.randn(batch, width, generator=generator))


def _solve(generator: torch.Generator, steps: int) -> Run:
    flow, x0 = Flow(Perceptron(generator).requires_grad_(False)), torch.randn(16, 64, generator=generator)
    return lambda: integrate(flow, x0, steps=steps)


def _couple(generator: torch.Generator, size: int) -> Run:
    x0, x1 = torch.randn(size, 64, generator=generator), 1 + torch.randn(size, 64, generator=generator)
    return lambda: MinibatchOT()(x0, x1)


@dataclass(frozen=True)
class Model:
    """A domain's flow with what it takes to call it."""

    domain: Domain
    flow: Flow


def model_of(spec: DomainSpec, config: DictConfig) -> Model:
    """The flow of a domain's demo or quick benchmark if there is one, else of its default recipe with fresh weights.

    Raises:
        RectiflowError: the domain's data or packages are not there.
    """
    runs = demo_runs(spec, config)
    quick = Path(str(config.out), spec.name, NAME, "base")
    found = runs.get("base") or (quick if checkpoint_folders(quick) else None)
    if found is not None:
        trained = open_run(spec, found)
        return Model(trained.domain, trained.flow)
    settings = compose_training(spec, [])
    domain = build(spec, settings)
    network = new_network(domain, 0).eval().requires_grad_(False)
    return Model(domain, domain.flow(network))


def inputs(model: Model, count: int, generator: torch.Generator, **request: Any) -> tuple[State, Cond]:
    """Sources and conditions of `count` samples."""
    cond = model.domain.conditions(count, generator, **request)
    return draw_sources(model.domain, model.flow, cond, count, generator), cond


def domain_axes(
    spec: DomainSpec, model: Model, batches: Sequence[int], evaluations: Sequence[int], generator: torch.Generator
) -> list[Axis]:
    """A sample of one step by batch, one batch by evaluations, and one by length where the domain can be asked for it."""

    def solve(count: int, steps: int, **request: Any) -> Run:
        x0, cond = inputs(model, count, generator, **request)
        return lambda: carry(model.flow, x0, cond, method="euler", steps=steps)

    axes = [
        Axis(spec.name, "batch", batches, lambda size: solve(size, 1)),
        Axis(spec.name, "evaluations", evaluations, lambda size: solve(2, size)),
    ]
    for name, sizes in spec.lengths.items():
        axes.append(Axis(spec.name, name, sizes, lambda size, name=name: solve(1, 1, **{name: size})))  # type: ignore[misc]
    return axes
