"""Shortcut models: a jump is what two jumps of half its length do (arXiv 2410.12557)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Batch, device_of, map_state
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.method import ALONE, Method, Support, columns, rows_of_draw, share_of, target_velocity
from rectiflow.times import Uniform


@dataclass(frozen=True)
class Shortcut(Method):
    """Flow matching at until = t, and jumps of length 2^-k, k = 0 … levels - 1, regressed on two jumps of half the length.

    The two are taken by the averaged student, from t a multiple of the jump's length; the shortest by its instantaneous
    velocity. On curved spaces the jumps follow geodesics. The domain's own loss terms are left out: an average velocity is no
    data estimate.

    Args:
        levels: log2 of the number of instantaneous steps that a jump over the whole of [0, 1] stands for.
        bootstrap: share of the batch that trains jumps.
        guidance: scale of classifier-free guidance that the student will have without asking for it.
        condition_drop: probability, per sample, of training without conditions.
        teacher: regress instantaneous velocities on the teacher's; False takes that of the drawn path.
    """

    levels: int = 7
    bootstrap: float = 0.25
    guidance: float = 1.0
    condition_drop: float = 0.0
    teacher: bool = True

    average = True

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ConfigError(f"levels of Shortcut is {self.levels}; allowed: an integer of at least 1")
        if not 0 <= self.bootstrap <= 1:
            raise ConfigError(f"bootstrap of Shortcut is {self.bootstrap}; allowed: 0 to 1")

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error, and its parts over instantaneous velocities and over jumps."""
        size, device = len(batch), device_of(batch.x1)
        jumps = share_of(size, self.bootstrap, generator, device)
        start, length = self.draw_jumps(jumps, generator, device)
        rest = Uniform().sample(size - jumps, generator, device=device)
        draw = flow.draw(
            batch.x1,
            batch.cond,
            x0=batch.x0,
            mask=batch.mask,
            times=torch.cat([start.to(rest), rest]),
            condition_drop=self.condition_drop,
            generator=generator,
        )
        length = length.to(draw.t)
        until = torch.cat([draw.t[:jumps] + length, draw.t[jumps:]])
        teacher = support.require_teacher(self) if self.teacher else None
        targets = []
        if jumps:
            targets.append(self.two_jumps(support.require_average(self), rows_of_draw(draw, slice(jumps)), length))
        if jumps < size:
            targets.append(target_velocity(flow, rows_of_draw(draw, slice(jumps, None)), teacher, self.guidance))
        target = map_state(lambda *parts: torch.cat(parts), *targets)
        cond = flow.self_conditioned(draw, generator, until)
        error = flow.squared_error(flow.average_velocity(draw.xt, draw.t, until, **cond), target, draw)
        parts = {"instantaneous": error[jumps:], "jumps": error[:jumps]}
        return error.mean(), {name: part.detach().sum() / size for name, part in parts.items()}

    def draw_jumps(
        self, count: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Starts and lengths (count,) of jumps: 2^-k with k uniform, from a multiple of the length."""
        k = torch.randint(self.levels, (count,), generator=generator, device=device)
        pieces = 2.0**k
        place = torch.floor(torch.rand(count, generator=generator, device=device) * pieces)
        return place / pieces, 1 / pieces

    @torch.no_grad()
    def two_jumps(self, average: Flow, draw: Draw, length: Tensor) -> Any:
        """Average velocity over a jump of some length (B,) from a draw's state, as two halves of it make it."""
        space = average.masked(draw.mask).space
        half = length / 2
        shortest = length <= 2.0 ** (1 - self.levels)
        x, t = draw.xt, draw.t
        for _ in range(2):
            u = _average(average, x, t, torch.where(shortest, t, t + half), draw.cond)
            x = space.exp(x, map_state(lambda part: columns(half, part) * part, u))
            t = t + half
        return map_state(lambda part: part / columns(length, part), space.log(draw.xt, x))


def _average(flow: Flow, x: Any, t: Tensor, until: Tensor, cond: Any) -> Any:
    if flow.self_conditioning:
        cond = {**cond, "self_condition": map_state(torch.zeros_like, x)}
    return flow.average_velocity(x, t, until, **cond)
