"""The scale of classifier-free guidance as one more condition, so that a student can have any of a range baked in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import Cond, map_state
from rectiflow.conditions import Null, concatenate, null_like
from rectiflow.control.guidance import SCALE
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow, Model
from rectiflow.rectify.method import Method

Scales = tuple[float, float]
"""The lowest and the highest scale of guidance that a student is trained for."""


def guided_by_condition(flow: Flow) -> Flow:
    """The same flow with its guidance scale as a condition, cond["guidance"] (B,): each sample may have its own.

    It serves as a teacher: pairs keep the scale beside the other conditions, and a student whose network takes
    `guidance` learns the whole range at one evaluation a step (arXiv 2309.06380; 2210.03142 for scales as an input).
    A student of that kind is one already.

    Raises:
        ConfigError: the flow has no null condition, no guidance, or is self-conditioned.
    """
    if flow.guidance_range is not None:
        return flow
    if flow.null is None or not flow.guidable or flow.self_conditioning:
        raise ConfigError(
            "a guidance scale as a condition needs a flow that can be guided (conditional, trained with condition_drop above 0) "
            f"and is not self-conditioned; got null {flow.null}, guidable {flow.guidable}, "
            f"self_conditioning {flow.self_conditioning}"
        )
    everything = (-math.inf, math.inf)
    return replace(flow, model=_Guided(flow.model, flow.null), null=None, guidable=False, guidance_range=everything)


def guided_teacher(flow: Flow, scales: Scales | None) -> Flow:
    """The teacher of a student that takes these scales; the flow itself where it takes none.

    Raises:
        ConfigError: see `guided_by_condition`, or the teacher was itself trained for a narrower range.
    """
    if scales is None:
        return flow
    teacher = guided_by_condition(flow)
    low, high = teacher.guidance_range or scales
    if not (low <= scales[0] and scales[1] <= high):
        raise ConfigError(
            f"guidance scales from {scales[0]:g} to {scales[1]:g} were asked for; the teacher was trained for {low:g} to {high:g}"
        )
    return teacher


def guided_student(method: Method, flow: Flow, scales: Scales | None) -> Flow:
    """What a method trains the flow of a student's network to be, with the scale of guidance as an input if scales are given.

    Raises:
        ConfigError: the method bakes in one scale, or leaves the teacher's network as it is.
    """
    student = method.student(flow)
    if scales is None:
        return student
    fixed = [getattr(method, name) for name in ("guidance", "distillation_guidance") if hasattr(method, name)]
    if student.guidable or any(scale != 1 for scale in fixed):
        reason = "keeps the teacher's network" if student.guidable else f"has guidance {fixed[0]:g}"
        raise ConfigError(
            f"{type(method).__name__} {reason}, and guidance scales from {scales[0]:g} to {scales[1]:g} were to be an input; "
            "drop one of the two"
        )
    return replace(student, guidance_range=scales)


def draw_scales(count: int, scales: Scales, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Scales (count,), log-uniform from low to high: doubling the guidance counts alike everywhere.

    Raises:
        ConfigError: not 0 < low <= high.
    """
    low, high = scales
    if not 0 < low <= high < math.inf:
        raise ConfigError(
            f"guidance scales go from {low:g} to {high:g}; allowed: above 0, the first not above the second"
        )
    u = torch.rand(count, generator=generator, device=device, dtype=torch.float32)
    return low * (high / low) ** u


def with_scales(
    conditions: Callable[[int, torch.Generator], Cond], scales: Scales
) -> Callable[[int, torch.Generator], Cond]:
    """Conditions for `generate_pairs` with a guidance scale beside what they had; errors as in `draw_scales`."""
    draw_scales(0, scales, torch.Generator())

    def drawn(count: int, generator: torch.Generator) -> Cond:
        cond = conditions(count, generator)
        return {**cond, SCALE: draw_scales(count, scales, generator)}

    return drawn


class _Guided(nn.Module):
    """unconditional + guidance (conditional - unconditional), of what the model predicts; all predictions are affine alike."""

    def __init__(self, model: Model, null: Null) -> None:
        super().__init__()
        self.model = model
        self.null = null

    def forward(self, x: Any, t: Tensor, guidance: Tensor, **cond: Tensor) -> Any:
        """Prediction of x's shape, at scales (B,)."""
        twice = map_state(lambda part: torch.cat([part, part]), x)
        output = self.model(twice, torch.cat([t, t]), **concatenate(cond, null_like(cond, self.null)))

        def mix(pair: Tensor) -> Tensor:
            conditional, unconditional = pair.chunk(2)
            scale = guidance.reshape((-1,) + (1,) * (pair.ndim - 1)).to(pair.dtype)
            return torch.lerp(unconditional, conditional, scale)

        return map_state(mix, output)
