"""Rectification: pairs made by a flow, stored, and flows trained on them. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rectiflow.rectify.annealing import Annealing
    from rectiflow.rectify.dispersive import Dispersive, dispersion
    from rectiflow.rectify.distances import PseudoHuber, Squared
    from rectiflow.rectify.distillation import distill
    from rectiflow.rectify.flow_map import FlowMap
    from rectiflow.rectify.generate import generate_pairs
    from rectiflow.rectify.guidance_condition import guided_by_condition, with_scales
    from rectiflow.rectify.guided_distillation import GuidedDistillation
    from rectiflow.rectify.inverting import invert_pairs
    from rectiflow.rectify.marginal_transport import MarginalTransport
    from rectiflow.rectify.mean_flow import MeanFlow
    from rectiflow.rectify.method import Method, Support
    from rectiflow.rectify.mixture import Mixture
    from rectiflow.rectify.one_step import OneStep
    from rectiflow.rectify.online import Online
    from rectiflow.rectify.optimal_steps import StepCosts, step_costs
    from rectiflow.rectify.pairs import PairStore
    from rectiflow.rectify.phased import Phased
    from rectiflow.rectify.rectified_flow import RectifiedFlow
    from rectiflow.rectify.refiner import FlowTurbo
    from rectiflow.rectify.reflowing import reflow
    from rectiflow.rectify.selection import Selection, score_pairs, select_pairs
    from rectiflow.rectify.shortcut import Shortcut
    from rectiflow.rectify.writing import PairWriter

_HOMES = {
    "Annealing": "rectiflow.rectify.annealing",
    "Dispersive": "rectiflow.rectify.dispersive",
    "FlowMap": "rectiflow.rectify.flow_map",
    "FlowTurbo": "rectiflow.rectify.refiner",
    "GuidedDistillation": "rectiflow.rectify.guided_distillation",
    "MarginalTransport": "rectiflow.rectify.marginal_transport",
    "MeanFlow": "rectiflow.rectify.mean_flow",
    "Method": "rectiflow.rectify.method",
    "Mixture": "rectiflow.rectify.mixture",
    "OneStep": "rectiflow.rectify.one_step",
    "Online": "rectiflow.rectify.online",
    "PairStore": "rectiflow.rectify.pairs",
    "PairWriter": "rectiflow.rectify.writing",
    "Phased": "rectiflow.rectify.phased",
    "PseudoHuber": "rectiflow.rectify.distances",
    "RectifiedFlow": "rectiflow.rectify.rectified_flow",
    "Selection": "rectiflow.rectify.selection",
    "Shortcut": "rectiflow.rectify.shortcut",
    "Squared": "rectiflow.rectify.distances",
    "StepCosts": "rectiflow.rectify.optimal_steps",
    "Support": "rectiflow.rectify.method",
    "dispersion": "rectiflow.rectify.dispersive",
    "distill": "rectiflow.rectify.distillation",
    "generate_pairs": "rectiflow.rectify.generate",
    "guided_by_condition": "rectiflow.rectify.guidance_condition",
    "invert_pairs": "rectiflow.rectify.inverting",
    "reflow": "rectiflow.rectify.reflowing",
    "score_pairs": "rectiflow.rectify.selection",
    "select_pairs": "rectiflow.rectify.selection",
    "step_costs": "rectiflow.rectify.optimal_steps",
    "with_scales": "rectiflow.rectify.guidance_condition",
}

__all__ = [
    "Annealing",
    "Dispersive",
    "FlowMap",
    "FlowTurbo",
    "GuidedDistillation",
    "MarginalTransport",
    "MeanFlow",
    "Method",
    "Mixture",
    "OneStep",
    "Online",
    "PairStore",
    "PairWriter",
    "Phased",
    "PseudoHuber",
    "RectifiedFlow",
    "Selection",
    "Shortcut",
    "Squared",
    "StepCosts",
    "Support",
    "dispersion",
    "distill",
    "generate_pairs",
    "guided_by_condition",
    "invert_pairs",
    "reflow",
    "score_pairs",
    "select_pairs",
    "step_costs",
    "with_scales",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rectiflow.rectify' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
