"""SlimFlow's second stage: a small student learns its one step from pairs and from the teacher's second look at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rectiflow.batch import Batch, Mask, State, batch_size, device_of, map_state, time_dtype
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.distances import Distance, Perceptual, Squared, difference
from rectiflow.rectify.method import ALONE, Method, Support, columns, velocity_of


@dataclass(frozen=True)
class GuidedDistillation(Method):
    """d(x0 + v(x0, 0), x1) + d(v(x0, 0), x1_hat - x0) on stored pairs (arXiv 2407.12718).

    x1_hat is where two Euler steps lead: the student's own from 0 to t ~ U(low, high), and from there the teacher's, whose
    place in the first term's average the second takes where the pairs are few. The teacher is a rectified flow.

    Args:
        low: earliest end of the first step.
        high: latest end of the first step.
        distance: of both terms.
        perceptual: distance of data estimate and data, in the first term's place.

    Raises:
        ConfigError: not 0 < low <= high < 1.
    """

    low: float = 0.2
    high: float = 0.8
    distance: Distance = field(default_factory=Squared)
    perceptual: Perceptual | None = None

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < 1:
            raise ConfigError(f"the first step ends between {self.low} and {self.high}; allowed: 0 < low <= high < 1")

    @property
    def trains_on(self) -> Literal["pairs"]:
        """Stored pairs."""
        return "pairs"

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of pairs, with a teacher in `support`."""
        teacher = support.require_teacher(self)
        x0 = self.require_pairs(batch)
        size, device = batch_size(x0), device_of(x0)
        start = torch.zeros(size, device=device)
        draw = flow.draw(batch.x1, batch.cond, x0=x0, mask=batch.mask, times=start, generator=generator)
        prediction = flow.predict(draw, generator)
        velocity = flow.interpret(prediction, "velocity", draw.xt, draw.t, draw.cond)
        space = flow.space.masked(batch.mask)
        t = self.low + (self.high - self.low) * torch.rand(size, generator=generator, device=device)
        second = self._second_look(flow, teacher, draw, velocity, t.to(time_dtype(x0)), batch.mask)
        straight = space.log(draw.xt, draw.x1)
        terms = {"guided": self._distance(flow, velocity, second, draw)}
        if self.perceptual is None:
            terms["pairs"] = self._distance(flow, velocity, straight, draw)
        else:
            terms["pairs"] = self.perceptual(space.exp(draw.xt, velocity), draw.x1).mean()
        terms |= extra(flow, prediction, draw, batch)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def _distance(self, flow: Flow, velocity: State, target: State, draw: Draw) -> Tensor:
        return self.distance(difference(flow, velocity, target, draw, "velocity"), draw.mask).mean()

    def _second_look(self, flow: Flow, teacher: Flow, draw: Draw, velocity: Any, t: Tensor, mask: Mask) -> Any:
        """Velocity from x0 straight to where the student's step to t and the teacher's from there on lead."""
        space = flow.space.masked(mask)
        with torch.no_grad():
            half = space.exp(draw.xt, _scaled(velocity, t))
            rest = velocity_of(teacher.masked(mask), half, t, draw.cond)
            return space.log(draw.xt, space.exp(half, _scaled(rest, 1 - t)))


def _scaled(velocity: Any, factor: Tensor) -> Any:
    return map_state(lambda part: columns(factor, part) * part, velocity)
