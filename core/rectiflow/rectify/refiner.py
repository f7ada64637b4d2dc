"""FlowTurbo's refiner (arXiv 2409.18128): a small network that turns the velocity just before into the velocity here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Batch, batch_size, device_of, map_state, time_dtype
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.method import ALONE, Method, Support, columns, velocity_of


@dataclass(frozen=True)
class FlowTurbo(Method):
    """|r(x', t', v) + v - v(x', t')|^2 with x' = x_t + dt v and v = v(x_t, t), both velocities the teacher's.

    The student's network is the teacher's with a refiner beside it, `model(x, t, velocity=v, **cond)`; the loss trains the
    refiner alone, so the rest must start from the teacher's weights. It is sampled by `flow_turbo`.

    Args:
        reach: the longest dt, above 0; about the step that it will be sampled with.
        guidance: of the teacher; sample with the same.

    Raises:
        ConfigError: reach outside (0, 1].
    """

    reach: float = 0.12
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.reach <= 1:
            raise ConfigError(f"reach is {self.reach}; allowed: above 0, at most 1")

    @property
    def sampler(self) -> str:
        """Blocks of Heun, pseudo-corrector and refined steps."""
        return "flow_turbo"

    def student(self, flow: Flow) -> Flow:
        """The flow itself, with a refiner."""
        return replace(flow, refines=True)

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of data, with a teacher in `support`; a domain's extra terms are left out."""
        teacher = support.require_teacher(self).masked(batch.mask)
        size, device = batch_size(batch.x1), device_of(batch.x1)
        u, reach = torch.rand(2, size, generator=generator, device=device).to(time_dtype(batch.x1))
        later = self.reach * reach
        draw = flow.draw(batch.x1, batch.cond, mask=batch.mask, times=u * (1 - later), generator=generator)
        space = teacher.space
        with torch.no_grad():
            before = velocity_of(teacher, draw.xt, draw.t, draw.cond, self.guidance)
            x = space.exp(draw.xt, map_state(lambda v: columns(later, v) * v, before))
            carried = space.transport(draw.xt, x, before)
            here = draw._replace(t=draw.t + later, xt=x)
            target = velocity_of(teacher, here.xt, here.t, here.cond, self.guidance)
        correction: Any = flow.model(here.xt, here.t, velocity=carried, **here.cond)
        return flow.squared_error(space.combine((carried, correction), (1, 1)), target, here).mean(), {}
