"""MeanFlow: the average velocity, learnt from how it changes along the flow (arXiv 2505.13447)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rectiflow.batch import Batch, device_of, map_state
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.derivative import DERIVATIVES, Direction, along
from rectiflow.rectify.method import ALONE, Method, Support, columns, rows_of, target_velocity, two_times, weighed
from rectiflow.times import LogitNormal, TimeLaw


@dataclass(frozen=True)
class MeanFlow(Method):
    """Regression of u(x_t, t, r) on v + (r - t) du/dt, du/dt along the flow and without a gradient.

    In the paper's time, which runs towards noise, the correction has the other sign. Two times are drawn and sorted in a share
    `jumps` of the samples; in the rest r = t, where the loss is flow matching and needs no derivative. A sample's mean squared
    error e is weighed by 1 / (e + offset)^power. The domain's own loss terms are left out: an average velocity is no estimate of
    data.

    Args:
        times: law of both times; the default is the paper's, turned to time from noise to data.
        jumps: share of samples with r > t.
        power: 0 for a plain mean square, 1 for a weight that makes all samples count alike.
        offset: above 0, in the data's squared units.
        guidance: scale of classifier-free guidance that the student will have without asking for it.
        condition_drop: probability, per sample, of training without conditions.
        teacher: regress on the teacher's velocity; False takes that of the drawn path, and learns from data alone.
        derivative: forward | difference, see `derivative.along`.
        step: half the width of the difference.
    """

    times: TimeLaw = field(default_factory=lambda: LogitNormal(mean=0.4))
    jumps: float = 0.25
    power: float = 1.0
    offset: float = 1e-3
    guidance: float = 1.0
    condition_drop: float = 0.0
    teacher: bool = True
    derivative: str = "forward"
    step: float = 5e-3

    average = True

    def __post_init__(self) -> None:
        if not 0 <= self.jumps <= 1:
            raise ConfigError(f"jumps of MeanFlow is {self.jumps}; allowed: 0 to 1")
        if not (self.power >= 0 and self.offset > 0 and self.step > 0):
            raise ConfigError(
                f"MeanFlow has power {self.power}, offset {self.offset} and step {self.step}; "
                "power must be at least 0, the others above 0"
            )
        if self.derivative not in DERIVATIVES:
            raise ConfigError(f"derivative of MeanFlow is {self.derivative!r}; allowed: {', '.join(DERIVATIVES)}")

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted error, and the plain one as "error"."""
        self.require_linear(flow)
        jumps, t, until = two_times(self.times, self.jumps, len(batch), generator, device_of(batch.x1))
        draw = flow.draw(
            batch.x1,
            batch.cond,
            x0=batch.x0,
            mask=batch.mask,
            times=t,
            condition_drop=self.condition_drop,
            generator=generator,
        )
        until = until.to(draw.t)
        teacher = support.require_teacher(self) if self.teacher else None
        velocity = target_velocity(flow, draw, teacher, self.guidance)
        cond = flow.self_conditioned(draw, generator, until)
        u, target = [], []
        if jumps:
            x, start, end, v, own = (rows_of(part, slice(jumps)) for part in (draw.xt, draw.t, until, velocity, cond))
            direction = Direction(v, 1.0, 0.0)
            value, slope = along(flow, x, start, end, own, direction, derivative=self.derivative, step=self.step)
            u.append(value)
            target.append(map_state(lambda v, du: v + columns(end - start, v) * du, v, slope))
        if jumps < len(batch):
            x, start, v, own = (rows_of(part, slice(jumps, None)) for part in (draw.xt, draw.t, velocity, cond))
            u.append(flow.average_velocity(x, start, start, **own))
            target.append(v)
        u, target = (map_state(lambda *pieces: torch.cat(pieces), *parts) for parts in (u, target))
        error = flow.squared_error(u, target, draw)
        return weighed(error, self.power, self.offset), {"error": error.detach().mean()}
