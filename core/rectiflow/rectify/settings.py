"""What may be set for the few-step methods (`rectiflow distill … method=…`), with its defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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


@dataclass
class ShortcutSettings:
    """Jumps learnt from two jumps of half the length."""

    _target_: str = "rectiflow.rectify.shortcut.Shortcut"
    levels: int = 7
    bootstrap: float = 0.25
    guidance: float = 1.0
    condition_drop: float = 0.0
    teacher: bool = True


@dataclass
class FlowMapSettings:
    """The end of a jump moves with the velocity there (Lagrangian self-distillation)."""

    _target_: str = "rectiflow.rectify.flow_map.FlowMap"
    times: Any = field(default_factory=lambda: {"_target_": "rectiflow.times.Uniform"})
    jumps: float = 0.75
    guidance: float = 1.0
    condition_drop: float = 0.0
    teacher: bool = True
    derivative: str = "forward"
    step: float = 5e-3


@dataclass
class DispersiveSettings:
    """Another method (`method.base`), with inner features of a batch pushed apart; on MeanFlow it is DM1."""

    _target_: str = "rectiflow.rectify.dispersive.Dispersive"
    base: Any = field(default_factory=MeanFlowSettings)
    layers: list[str] = MISSING
    weight: float = 0.5
    form: str = "infonce_l2"
    temperature: float = 0.5
    margin: float = 1.0


METHODS: dict[str, type] = {
    "mean_flow": MeanFlowSettings,
    "shortcut": ShortcutSettings,
    "flow_map": FlowMapSettings,
    "dispersive": DispersiveSettings,
}
