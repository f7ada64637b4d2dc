"""Marginal-data transport (MDT-dist, arXiv 2509.04406): the velocity becomes the average velocity from t to the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond, Mask, batch_size, device_of, dtype_of, map_masked, map_state, parts, shape_of
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow, Model
from rectiflow.interpolants import Linear
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.derivative import DERIVATIVES, Direction, along
from rectiflow.rectify.method import ALONE, Method, Support, columns, velocity_of, weighed
from rectiflow.times import LogitNormal, TimeLaw

OFFSET = 0.1


@dataclass(frozen=True)
class MarginalTransport(Method):
    """Velocity matching and velocity distillation of u(x, t), with x + (1 - t) u where the teacher carries x.

    Matching: |u - stopgrad(v + (1 - t) du/dt)|^2 at points of the teacher's path, du/dt along the teacher's velocity v; its fixed
    point is the average velocity. Distillation: the same residual r at noised samples of the student, whose one step u(x0, 0)
    then has the gradient 2 r du(x0, 0) (after the reference code). The student needs no second time; it is sampled in one
    step, or in few by `reinterpolate`.

    Args:
        times: law of training times; the default leans to noise as the reference code does, with a uniform share beside.
        matching: weight of velocity matching.
        distillation: weight of velocity distillation.
        distillation_after: share of the steps, 0 to 1, that are matching alone; until it has told the noises of a condition
            apart, the residual at a sample knows nothing of the noise that it came from.
        guidance: of the teacher in velocity matching; the reference code's 40 counts from the conditional model, here 41.
        distillation_guidance: of the teacher in velocity distillation (there 100, here 101).
        normalise: divide du/dt by its norm over all entries of a sample plus 0.1, as the reference code does: bounded targets,
            whose fixed point is the average velocity only where that norm is 0.9.
        power: of a sample's weight 1 / (e + offset)^power in both terms, e its mean squared error, as in `MeanFlow`; with 0, the
            reference code's, large residuals rule, and what follows from them grows them.
        offset: above 0, in the data's squared units.
        derivative: forward | difference, see `derivative.along`.
        step: half the width of the difference.

    Raises:
        ConfigError: a negative weight, none above 0, a share outside 0 to 1, an unknown derivative, a power below 0, or an
            offset or step not above 0.
    """

    times: TimeLaw = field(default_factory=lambda: LogitNormal(mean=-1.0, uniform=0.1))
    matching: float = 1.0
    distillation: float = 1.0
    distillation_after: float = 0.0
    guidance: float = 1.0
    distillation_guidance: float = 1.0
    normalise: bool = False
    power: float = 0.0
    offset: float = 1e-3
    derivative: str = "forward"
    step: float = 5e-3

    def __post_init__(self) -> None:
        if min(self.matching, self.distillation) < 0 or self.matching + self.distillation == 0:
            raise ConfigError(
                f"weights are matching {self.matching}, distillation {self.distillation}; "
                "allowed: at least 0, and one above"
            )
        if not 0 <= self.distillation_after <= 1 or (self.distillation_after and not self.matching):
            raise ConfigError(
                f"distillation begins after {self.distillation_after} of the steps, matching has weight {self.matching}; "
                "allowed: 0 to 1, and above 0 only with matching"
            )
        if self.derivative not in DERIVATIVES:
            raise ConfigError(f"derivative is {self.derivative!r}; allowed: {', '.join(DERIVATIVES)}")
        if not (self.power >= 0 and self.offset > 0 and self.step > 0):
            raise ConfigError(
                f"MarginalTransport has power {self.power}, offset {self.offset} and step {self.step}; "
                "power must be at least 0, the others above 0"
            )

    @property
    def sampler(self) -> str:
        """One step is Euler's."""
        return "reinterpolate"

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of data, with a teacher in `support`; a domain's extra terms are left out."""
        teacher = support.require_teacher(self)
        self.require_linear(flow)
        if not isinstance(flow.interpolant, Linear):
            raise ConfigError(
                f"marginal-data transport needs the linear path; got {flow.interpolant!r}: `convert_path` the teacher first"
            )
        terms = {}
        if self.matching:
            draw = flow.draw(batch.x1, batch.cond, mask=batch.mask, times=self.times, generator=generator)
            average, target = self._average_and_target(flow, teacher, draw, self.guidance, generator)
            terms["matching"] = self.matching * self._mean(flow.squared_error(average, target, draw))
        if self.distillation and support.step >= self.distillation_after * support.steps:
            terms["distillation"] = self.distillation * self._distillation(flow, teacher, batch, generator)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def _distillation(self, flow: Flow, teacher: Flow, batch: Batch, generator: torch.Generator) -> Tensor:
        size, device = batch_size(batch.x1), device_of(batch.x1)
        x0 = flow.sample_source(shape_of(batch.x1), batch.cond, generator, device=device, dtype=dtype_of(batch.x1))
        start = flow.draw(
            batch.x1, batch.cond, x0=x0, mask=batch.mask, times=torch.zeros(size, device=device), generator=generator
        )
        step = flow.velocity(start.xt, start.t, **flow.self_conditioned(start, generator))
        with torch.no_grad():
            fake = map_state(torch.add, start.xt, step)
            draw = flow.draw(fake, batch.cond, mask=batch.mask, times=self.times, generator=generator)
            average, target = self._average_and_target(flow, teacher, draw, self.distillation_guidance, generator)
            moved = map_state(lambda s, u, v: s - (u - v), step, average, target)
        return self._mean(flow.squared_error(step, moved, start))

    def _mean(self, error: Tensor) -> Tensor:
        return weighed(error, self.power, self.offset)

    def _average_and_target(
        self, flow: Flow, teacher: Flow, draw: Draw, guidance: float, generator: torch.Generator
    ) -> tuple[Any, Any]:
        """u, with its gradient, and v + (1 - t) du/dt, without, at a draw."""
        velocity = velocity_of(teacher.masked(draw.mask), draw.xt, draw.t, draw.cond, guidance)
        own: Cond = flow.self_conditioned(draw, generator)
        alike = Flow(
            _WithoutEnd(flow.model), flow.interpolant, flow.predicts, flow.space, average=True, independent=False
        )
        direction = Direction(dx=velocity, dt=1.0, duntil=0.0)
        until = torch.ones_like(draw.t)
        average, slope = along(
            alike, draw.xt, draw.t, until, own, direction, derivative=self.derivative, step=self.step
        )
        if self.normalise:
            slope = _normalised(slope, draw.mask)
        rest = 1 - draw.t
        target = map_state(lambda v, d: (v + columns(rest, d) * d).detach(), velocity, slope)
        return average, target


class _WithoutEnd(nn.Module):
    """A model of one time, called with two."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any, t: Tensor, until: Tensor, **cond: Tensor) -> Any:
        """The model's output at (x, t); its average runs to t = 1 whatever `until` says."""
        return self.model(x, t, **cond)


def _normalised(slope: Any, mask: Mask) -> Any:
    """The slope over its norm, of all components of a sample and without its padding, plus a constant."""
    squares = map_masked(_sum_of_squares, mask, slope)
    size = torch.stack(parts(squares)).sum(0).sqrt()
    return map_state(lambda part: part / columns(size + OFFSET, part), slope)


def _sum_of_squares(part: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        part = part.masked_fill(~mask.reshape(mask.shape + (1,) * (part.ndim - mask.ndim)), 0)
    return part.flatten(1).square().sum(1)
