"""The scale of classifier-free guidance as one more condition, so that a student can have any of a range baked in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import Cond, map_state
from rectiflow.conditions import Null, concatenate, null_like
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow, Model

SCALE = "guidance"


def guided_by_condition(flow: Flow) -> Flow:
    """The same flow with its guidance scale as a condition, cond["guidance"] (B,): each sample may have its own.

    It serves as a teacher: pairs keep the scale beside the other conditions, and a student whose network takes
    `guidance` learns the whole range at one evaluation a step (arXiv 2309.06380; 2210.03142 for scales as an input).

    Raises:
        ConfigError: the flow has no null condition, no guidance, or is self-conditioned.
    """
    if flow.null is None or not flow.guidable or flow.self_conditioning:
        raise ConfigError(
            "a guidance scale as a condition needs a flow that can be guided and is not self-conditioned; "
            f"got null {flow.null}, guidable {flow.guidable}, self_conditioning {flow.self_conditioning}"
        )
    return replace(flow, model=_Guided(flow.model, flow.null), null=None, guidable=False)


def with_scales(
    conditions: Callable[[int, torch.Generator], Cond], low: float, high: float
) -> Callable[[int, torch.Generator], Cond]:
    """Conditions for `generate_pairs` with a guidance scale ~ U(low, high) beside what they had.

    Raises:
        ConfigError: low above high.
    """
    if not low <= high:
        raise ConfigError(f"guidance scales from {low} to {high}; the first must not be above the second")

    def drawn(count: int, generator: torch.Generator) -> Cond:
        cond = conditions(count, generator)
        return {**cond, SCALE: low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float32)}

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
