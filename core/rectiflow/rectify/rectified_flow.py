"""Reflow with what later work added to it: other distances, other time laws, a perceptual term, annealing.

A flow keeps its own path, so that the pairs of a diffusion model (noise prediction, a curved path) rectify it along that path:
then it is Rectified Diffusion (arXiv 2410.07303), whose sampler is ddim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rectiflow.batch import Batch, State, device_of, dtype_of, shape_of
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.predictions import MARGIN, Prediction, check_prediction
from rectiflow.rectify.annealing import Annealing, annealed
from rectiflow.rectify.distances import Distance, Perceptual, Squared, difference
from rectiflow.rectify.method import ALONE, Method, Support
from rectiflow.times import TimeLaw, Uniform


@dataclass(frozen=True)
class RectifiedFlow(Method):
    """Regression on stored pairs (arXiv 2209.03003).

    With times=UShaped(), distance=PseudoHuber() and a perceptual distance it is 2-RF++ (arXiv 2405.20320): per sample
    t h(v - v*) + p(x1_hat, x1) / (1 - t). With annealing it is SlimFlow's first stage, which suits a student with fresh
    weights and fewer of them (arXiv 2407.12718).

    Args:
        times: law of training times.
        distance: of prediction and target.
        compare: what is compared: velocity | data | noise; what the network predicts by default.
        perceptual: distance of the data estimate from the pair's data, added to `distance`.
        annealing: from fresh noise to the pairs' own, over the first steps.
        condition_drop: probability, per sample, of training without conditions.

    Raises:
        ConfigError: condition_drop outside [0, 1] or an unknown kind to compare.
    """

    times: TimeLaw = field(default_factory=Uniform)
    distance: Distance = field(default_factory=Squared)
    compare: Prediction | None = None
    perceptual: Perceptual | None = None
    annealing: Annealing | None = None
    condition_drop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.condition_drop <= 1:
            raise ConfigError(f"condition_drop is {self.condition_drop}; allowed: 0 to 1")
        if self.compare is not None:
            check_prediction(self.compare)

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
        """Loss of a batch of pairs; annealing looks at `support.step`."""
        x0 = self._source(flow, batch, generator, support.step)
        draw = flow.draw(
            batch.x1,
            batch.cond,
            x0=x0,
            mask=batch.mask,
            times=self.times,
            condition_drop=self.condition_drop,
            generator=generator,
        )
        prediction = flow.predict(draw, generator)
        error = self._distance(flow, prediction, draw)
        terms = {}
        if self.perceptual is not None:
            estimate = flow.interpret(prediction, "data", draw.xt, draw.t, draw.cond)
            noise_time = (1 - draw.t).clamp(min=MARGIN)
            terms["perceptual"] = (self.perceptual(estimate, draw.x1) / noise_time).mean()
            error = draw.t * error
        terms = {"matching": error.mean(), **terms, **extra(flow, prediction, draw, batch)}
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()} if len(terms) > 1 else {}

    def _source(self, flow: Flow, batch: Batch, generator: torch.Generator, step: int) -> State:
        x0 = self.require_pairs(batch)
        beta = 0.0 if self.annealing is None else self.annealing.beta(step)
        if beta == 0:
            return x0
        if flow.source is not None or not flow.space.linear:
            raise ConfigError(
                f"annealing mixes normal sources; got source {flow.source!r} on {flow.space!r}; train without annealing"
            )
        options: dict[str, Any] = {"device": device_of(x0), "dtype": dtype_of(x0)}
        return annealed(x0, flow.sample_source(shape_of(x0), batch.cond, generator, **options), beta)

    def _distance(self, flow: Flow, prediction: Any, draw: Draw) -> Tensor:
        """Distance (B,) of prediction and target in the quantity to compare."""
        kind = self.compare or flow.predicts
        mine, true = (
            flow.convert(value, flow.predicts, kind, draw.xt, draw.t, draw.cond) for value in (prediction, draw.target)
        )
        return self.distance(difference(flow, mine, true, draw, kind), draw.mask)
