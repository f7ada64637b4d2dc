"""Rectification: pairs made by a flow, stored, and flows trained on them. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rectiflow.rectify.dispersive import Dispersive, dispersion
    from rectiflow.rectify.distillation import distill
    from rectiflow.rectify.flow_map import FlowMap
    from rectiflow.rectify.generate import generate_pairs
    from rectiflow.rectify.mean_flow import MeanFlow
    from rectiflow.rectify.method import Method, Support
    from rectiflow.rectify.pairs import PairStore
    from rectiflow.rectify.reflow import reflow
    from rectiflow.rectify.shortcut import Shortcut
    from rectiflow.rectify.writing import PairWriter

_HOMES = {
    "Dispersive": "rectiflow.rectify.dispersive",
    "FlowMap": "rectiflow.rectify.flow_map",
    "MeanFlow": "rectiflow.rectify.mean_flow",
    "Method": "rectiflow.rectify.method",
    "PairStore": "rectiflow.rectify.pairs",
    "PairWriter": "rectiflow.rectify.writing",
    "Shortcut": "rectiflow.rectify.shortcut",
    "Support": "rectiflow.rectify.method",
    "dispersion": "rectiflow.rectify.dispersive",
    "distill": "rectiflow.rectify.distillation",
    "generate_pairs": "rectiflow.rectify.generate",
    "reflow": "rectiflow.rectify.reflow",
}

__all__ = [
    "Dispersive",
    "FlowMap",
    "MeanFlow",
    "Method",
    "PairStore",
    "PairWriter",
    "Shortcut",
    "Support",
    "dispersion",
    "distill",
    "generate_pairs",
    "reflow",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rectiflow.rectify' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
