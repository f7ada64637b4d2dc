"""Flow matching as a training method, and the task that trains a domain's network by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.couplings import Coupling, Independent
from rectiflow.domain import Domain
from rectiflow.drawing import carry, draw_sources, tolerances
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.predictions import MARGIN
from rectiflow.schedules import exponentials, scheduled
from rectiflow.times import TimeLaw, Uniform

ExtraLoss = Callable[[Flow, Any, Draw, Batch], dict[str, Tensor]]


def no_extra_loss(flow: Flow, prediction: Any, draw: Draw, batch: Batch) -> dict[str, Tensor]:
    """Nothing beyond flow matching."""
    return {}


@dataclass(frozen=True)
class FlowMatching:
    """Regression of a flow's target at random points of the paths between coupled ends (arXiv 2209.03003, 2210.02747).

    Args:
        times: law of training times.
        coupling: how sources are paired with data; a batch that brings its own x0 (stored pairs) keeps that pairing.
        condition_drop: probability, per sample, of training without conditions.
        weight: "plain", or "velocity" to weigh a data, noise or score prediction by the velocity it stands for.
        weight_margin: distance from the end where a velocity is singular at which that weight stops growing: 0.1 caps the
            weight of a data prediction, 1 / (1 - t)^2, at 100.
    """

    times: TimeLaw = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    condition_drop: float = 0.0
    weight: str = "plain"
    weight_margin: float = MARGIN

    def __post_init__(self) -> None:
        if not 0 <= self.condition_drop <= 1:
            raise ConfigError(f"condition_drop is {self.condition_drop}; allowed: 0 to 1")
        if self.weight not in ("plain", "velocity"):
            raise ConfigError(f"weight is {self.weight!r}; allowed: plain, velocity")
        if not 0 < self.weight_margin < 1:
            raise ConfigError(f"weight_margin is {self.weight_margin}; allowed: above 0 and below 1")

    def loss(
        self, flow: Flow, batch: Batch, generator: torch.Generator, extra: ExtraLoss = no_extra_loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, a scalar, and its detached terms by name."""
        draw = flow.draw(
            batch.x1,
            batch.cond,
            x0=batch.x0,
            mask=batch.mask,
            times=self.times,
            coupling=self.coupling,
            condition_drop=self.condition_drop,
            generator=generator,
        )
        prediction = flow.predict(draw, generator)
        matching = flow.regression(prediction, draw, weight=self.weight, weight_margin=self.weight_margin)
        terms = {"matching": matching, **extra(flow, prediction, draw, batch)}
        if len(terms) == 1:
            return matching, {}
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()}


class FlowLoss(Protocol):
    """How a flow is trained: `FlowMatching`, or a few-step method with what supports it."""

    def loss(
        self, flow: Flow, batch: Batch, generator: torch.Generator, extra: ExtraLoss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, a scalar, and its detached terms by name."""
        ...


@dataclass
class FlowTask:
    """What the training loop needs to train a domain's network.

    `preview` draws the same samples from the same noise each time, so that progress is visible.
    """

    domain: Domain
    network: nn.Module
    method: FlowLoss
    sampling: Any
    _flow: tuple[nn.Module, Flow] | None = field(default=None, init=False, repr=False)

    def flow(self, network: nn.Module) -> Flow:
        """The domain's flow on this network; kept, since reading the configuration again at each step takes time."""
        if self._flow is None or self._flow[0] is not network:
            self._flow = (network, self.read(network))
        return self._flow[1]

    def read(self, network: nn.Module) -> Flow:
        """What the network means: the domain's flow."""
        return self.domain.flow(network)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch through the network that the loop wrapped."""
        if batch.mask is None:  # stored pairs keep conditions, which say what of a state is data
            batch = replace(batch, mask=self.domain.mask(batch.cond))
        return self.method.loss(self.flow(network), batch, generator, self.domain.extra_loss)

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Write samples/step-<step>.png; no figures."""
        generator = torch.Generator().manual_seed(0)
        count, cond = self.domain.picture_conditions(generator)
        flow = self.read(network)
        drawn = carry(
            scheduled(flow, exponentials(self.sampling.get("exponential", {}))),
            draw_sources(self.domain, flow, cond, count, generator),
            cond,
            method=self.sampling.method,
            steps=self.sampling.steps,
            shift=self.sampling.shift,
            guidance=self.sampling.guidance,
            tolerances=tolerances(self.sampling),
            device=next(network.parameters()).device,
        )
        pictures = folder / "samples"
        pictures.mkdir(parents=True, exist_ok=True)
        self.domain.picture(drawn.x, cond).save(pictures / f"step-{step:08d}.png")
        return {}
