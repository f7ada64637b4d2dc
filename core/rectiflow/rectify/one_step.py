"""Distillation of a rectified flow into its one step (or K steps): the student need not know any other time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rectiflow.batch import Batch, batch_size, device_of
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.distances import Distance, Perceptual, Squared, difference
from rectiflow.rectify.method import ALONE, Method, Support


@dataclass(frozen=True)
class OneStep(Method):
    """E d(x1_hat(x0), x1) over stored pairs, with x1_hat = x0 + v(x0, 0) on the linear path (arXiv 2209.03003, 2309.06380).

    InstaFlow is this after one or two reflows, on pairs made with guidance, with a perceptual distance. The pairs should be
    those that the teacher itself was rectified on, or its own.

    Args:
        steps: K; times are drawn from 0, 1/K, …, 1 - 1/K.
        distance: of the data estimate from the pair's data.
        perceptual: another such distance, added.

    Raises:
        ConfigError: fewer than one step.
    """

    steps: int = 1
    distance: Distance = field(default_factory=Squared)
    perceptual: Perceptual | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"distillation into {self.steps} steps; it must be at least 1")

    @property
    def trains_on(self) -> Literal["pairs"]:
        """Stored pairs."""
        return "pairs"

    @property
    def sampler(self) -> str:
        """Each step ends on the pair's path, at the estimate; on the linear path one step is Euler's."""
        return "euler" if self.steps == 1 else "reinterpolate"

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of pairs."""
        x0 = self.require_pairs(batch)
        step = torch.randint(self.steps, (batch_size(batch.x1),), generator=generator, device=device_of(batch.x1))
        draw = flow.draw(batch.x1, batch.cond, x0=x0, mask=batch.mask, times=step / self.steps, generator=generator)
        prediction = flow.predict(draw, generator)
        estimate = flow.interpret(prediction, "data", draw.xt, draw.t, draw.cond)
        error = self.distance(difference(flow, estimate, draw.x1, draw, "data"), draw.mask)
        terms = {"distance": error.mean()}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(estimate, draw.x1).mean()
        terms |= extra(flow, prediction, draw, batch)
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()} if len(terms) > 1 else {}
