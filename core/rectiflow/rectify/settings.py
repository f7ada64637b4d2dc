"""What may be set for the few-step methods (`rectiflow distill … method=…`), with its defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class MeanFlowSettings:
    """The average velocity, learnt from how it changes along the flow; `teacher=false` learns from data alone."""

    _target_: str = "rectiflow.rectify.mean_flow.MeanFlow"
    times: Any = field(default_factory=lambda: {"_target_": "rectiflow.times.LogitNormal", "mean": 0.4, "std": 1.0})
    jumps: float = 0.25
    power: float = 1.0
    offset: float = 1e-3
    guidance: float = 1.0
    condition_drop: float = 0.0
    teacher: bool = True
    derivative: str = "forward"
    step: float = 5e-3


METHODS: dict[str, type] = {
    "mean_flow": MeanFlowSettings,
}
