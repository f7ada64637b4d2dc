"""Pairs made while training: each batch from the frozen teacher, none stored, none seen twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Batch, device_of, dtype_of, shape_of
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.method import ALONE, Method, Support
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import STOCHASTIC, solver


@dataclass(frozen=True)
class Online(Method):
    """A method for stored pairs, on pairs that the teacher makes for each batch.

    Of the data it takes conditions, masks and shapes alone. Where a student sees each of N stored pairs k times, this costs k
    times their making, and there is nothing to overfit.

    Args:
        method: what the pairs are for, for example `OneStep()`.
        steps: solver steps a pair.
        solver: the teacher's solver.
        guidance: of the teacher, which the pairs then hold.

    Raises:
        ConfigError: a method that does not train on pairs, an unknown solver or one that draws noise, or fewer than one step.
    """

    method: Method
    steps: int = 12
    solver: str = "midpoint"
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.method.trains_on != "pairs":
            raise ConfigError(f"{type(self.method).__name__} does not train on pairs; use it as it is")
        solver(self.solver)
        if self.solver in STOCHASTIC:
            raise ConfigError(f"pairs by the stochastic solver {self.solver!r} do not belong together; use another")
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1")

    @property
    def average(self) -> bool:
        """As the method."""
        return self.method.average

    @property
    def sampler(self) -> str:
        """As the method."""
        return self.method.sampler

    def student(self, flow: Flow) -> Flow:
        """As the method."""
        return self.method.student(flow)

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss of fresh pairs, with a teacher in `support`."""
        teacher = support.require_teacher(self).masked(batch.mask)
        options: dict[str, Any] = {"device": device_of(batch.x1), "dtype": dtype_of(batch.x1)}
        x0 = teacher.space.project(teacher.sample_source(shape_of(batch.x1), batch.cond, generator, **options))
        x1 = integrate(
            teacher,
            x0,
            steps=self.steps,
            method=self.solver,
            cond=batch.cond,
            guidance=Guidance(self.guidance),
            check_finite=False,
        ).x
        return self.method.loss(flow, replace(batch, x0=x0, x1=x1), generator, extra, support)
