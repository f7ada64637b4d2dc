"""What may be set for the few-step methods (`rectiflow distill … method=…`), with its defaults. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING


@dataclass
class MeanFlowSettings:
    """The average velocity, learnt from how it changes along the flow; with `model.time_scale=10`, or that change is noise.

    `teacher=false` learns from data alone. Times and jumps are for few updates; the paper's are
    `method.times=logit_normal method.times.mean=0.4 method.times.uniform=0 method.jumps=0.25`.
    """

    _target_: str = "rectiflow.rectify.mean_flow.MeanFlow"
    times: Any = field(default_factory=lambda: {"_target_": "rectiflow.times.Uniform"})
    jumps: float = 0.75
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


def _target(name: str, **values: float) -> Callable[[], dict[str, Any]]:
    return lambda: {"_target_": f"rectiflow.{name}", **values}


@dataclass
class RectifiedFlowSettings:
    """Reflow on stored pairs, along the flow's own path (from a diffusion model: Rectified Diffusion)."""

    _target_: str = "rectiflow.rectify.rectified_flow.RectifiedFlow"
    times: Any = field(default_factory=_target("times.Uniform"))
    distance: Any = field(default_factory=_target("rectify.distances.Squared"))
    compare: str | None = None
    perceptual: Any = None
    annealing: Any = None
    condition_drop: float = 0.0


@dataclass
class RectifiedFlowPlusSettings(RectifiedFlowSettings):
    """2-RF++: reflow with times at both ends and the pseudo-Huber distance, a perceptual one beside it if given."""

    times: Any = field(default_factory=_target("times.UShaped", sharpness=4.0))
    distance: Any = field(default_factory=_target("rectify.distances.PseudoHuber", scale=0.00054))


@dataclass
class SlimFlowSettings(RectifiedFlowSettings):
    """Annealing reflow, from fresh noise to the pairs' own: for a smaller student (`fresh=true model.width=16`)."""

    annealing: Any = field(default_factory=_target("rectify.annealing.Annealing", steps=1000))


@dataclass
class OneStepSettings:
    """Distillation into one step (or K) on stored pairs, after reflow; with guidance in the pairs it is InstaFlow."""

    _target_: str = "rectiflow.rectify.one_step.OneStep"
    steps: int = 1
    distance: Any = field(default_factory=_target("rectify.distances.Squared"))
    perceptual: Any = None


@dataclass
class GuidedDistillationSettings:
    """SlimFlow's distillation: one step from pairs and from the teacher's second look."""

    _target_: str = "rectiflow.rectify.guided_distillation.GuidedDistillation"
    low: float = 0.2
    high: float = 0.8
    distance: Any = field(default_factory=_target("rectify.distances.Squared"))
    perceptual: Any = None


@dataclass
class PhasedSettings:
    """Straight between the times of a grid: PeRFlow, BOSS's fine-tuning, phased Rectified Diffusion."""

    _target_: str = "rectiflow.rectify.phased.Phased"
    times: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    solver_steps: int = 4
    solver: str = "midpoint"
    guidance: float = 1.0
    distance: Any = field(default_factory=_target("rectify.distances.Squared"))


@dataclass
class MarginalTransportSettings:
    """MDT-dist: the average velocity from each time to the data, by velocity matching, then distillation beside it.

    For few updates; the paper's settings, which diverge there, are `method.times=logit_normal method.times.mean=-1
    method.times.uniform=0.1 method.distillation_after=0 method.power=0`.
    """

    _target_: str = "rectiflow.rectify.marginal_transport.MarginalTransport"
    times: Any = field(default_factory=_target("times.UShaped", sharpness=4.0))
    matching: float = 1.0
    distillation: float = 1.0
    distillation_after: float = 0.6
    guidance: float = 1.0
    distillation_guidance: float = 1.0
    normalise: bool = False
    power: float = 0.5
    offset: float = 1e-3
    derivative: str = "difference"
    step: float = 5e-3


@dataclass
class FlowTurboSettings:
    """A small refiner beside the flow, for a few cheap steps (`model.refiner=8` is its width)."""

    _target_: str = "rectiflow.rectify.refiner.FlowTurbo"
    reach: float = 0.12
    guidance: float = 1.0


@dataclass
class OnlineSettings:
    """A method for stored pairs (`method.method={_target_: …}`), on pairs that the teacher makes for each batch."""

    _target_: str = "rectiflow.rectify.online.Online"
    method: Any = field(default_factory=_target("rectify.rectified_flow.RectifiedFlow"))
    steps: int = 12
    solver: str = "midpoint"
    guidance: float = 1.0


METHODS: dict[str, type] = {
    "mean_flow": MeanFlowSettings,
    "shortcut": ShortcutSettings,
    "flow_map": FlowMapSettings,
    "dispersive": DispersiveSettings,
    "rectified_flow": RectifiedFlowSettings,
    "rectified_flow_plus": RectifiedFlowPlusSettings,
    "slim_flow": SlimFlowSettings,
    "one_step": OneStepSettings,
    "guided_distillation": GuidedDistillationSettings,
    "phased": PhasedSettings,
    "marginal_transport": MarginalTransportSettings,
    "flow_turbo": FlowTurboSettings,
    "online": OnlineSettings,
}

SLOW_TIMES = 10.0
"""`model.time_scale` of a student whose method takes derivatives in time, unless it is given."""


def takes_derivatives(method: str = "mean_flow") -> bool:
    """Whether a method of `METHODS` is trained on a derivative in time; dispersive is as its base, which is one by default."""
    known = {setting.name for setting in fields(METHODS[method])} if method in METHODS else set()
    return bool(known & {"derivative", "base"})
