"""Flow maps by self-distillation: where a jump ends must move with the velocity there (arXiv 2505.18825, the Lagrangian form)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Batch, device_of, map_state
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.derivative import DERIVATIVES, Direction, along
from rectiflow.rectify.method import ALONE, Method, Support, columns, rows_of, target_velocity, two_times, velocity_of
from rectiflow.times import TimeLaw, Uniform


@dataclass(frozen=True)
class FlowMap(Method):
    """With X = x + (r - t) u(x, t, r), a share `jumps` of the samples asks dX/dr = v(X, r); the rest is flow matching at r = t.

    The derivative in r carries a gradient, the velocity at the jump's end does not. The domain's own loss terms are left out:
    an average velocity is no data estimate.

    Args:
        times: law of both times, which are sorted.
        jumps: share of samples with r > t.
        guidance: scale of classifier-free guidance that the student will have without asking for it.
        condition_drop: probability, per sample, of training without conditions.
        teacher: velocities are the teacher's (flow-map matching, arXiv 2406.07507); False takes that of the drawn path at r = t,
            and the student's own at the end of a jump.
        derivative: forward | difference, see `derivative.along`.
        step: half the width of the difference.
    """

    times: TimeLaw = field(default_factory=Uniform)
    jumps: float = 0.75
    guidance: float = 1.0
    condition_drop: float = 0.0
    teacher: bool = True
    derivative: str = "forward"
    step: float = 5e-3

    average = True

    def __post_init__(self) -> None:
        if not 0 <= self.jumps <= 1:
            raise ConfigError(f"jumps of FlowMap is {self.jumps}; allowed: 0 to 1")
        if self.derivative not in DERIVATIVES:
            raise ConfigError(f"derivative of FlowMap is {self.derivative!r}; allowed: {', '.join(DERIVATIVES)}")
        if not self.step > 0:
            raise ConfigError(f"step of FlowMap is {self.step}; allowed: above 0")

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error, and its parts over instantaneous velocities and over jumps."""
        self.require_linear(flow)
        size = len(batch)
        jumps, t, until = two_times(self.times, self.jumps, size, generator, device_of(batch.x1))
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
        cond = flow.self_conditioned(draw, generator, until)
        averages, speeds = [], []
        if jumps:
            x, start, end, own = (rows_of(part, slice(jumps)) for part in (draw.xt, draw.t, until, cond))
            later = Direction(None, 0.0, 1.0)
            u, slope = along(
                flow, x, start, end, own, later, derivative=self.derivative, step=self.step, differentiable=True
            )
            averages.append(u)
            speeds.append(map_state(lambda part, du: part + columns(end - start, part) * du, u, slope))
        if jumps < size:
            x, start, own = (rows_of(part, slice(jumps, None)) for part in (draw.xt, draw.t, cond))
            u = flow.average_velocity(x, start, start, **own)
            averages.append(u)
            speeds.append(u)
        u, speed = (map_state(lambda *pieces: torch.cat(pieces), *parts) for parts in (averages, speeds))
        target = self._velocity_at_end(flow, draw, u, until, jumps, teacher)
        error = flow.squared_error(speed, target, draw)
        parts = {"instantaneous": error[jumps:], "jumps": error[:jumps]}
        return error.mean(), {name: part.detach().sum() / size for name, part in parts.items()}

    def _velocity_at_end(self, flow: Flow, draw: Draw, u: Any, until: Tensor, jumps: int, teacher: Flow | None) -> Any:
        end = map_state(lambda x, part: (x + columns(until - draw.t, part) * part).detach(), draw.xt, u)
        if teacher is not None:
            return velocity_of(teacher, end, until, draw.cond, self.guidance)
        still = target_velocity(flow, draw, None, self.guidance)
        own = velocity_of(flow, end, until, draw.cond)
        return map_state(lambda there, here: torch.cat([there[:jumps], here[jumps:]]), own, still)
