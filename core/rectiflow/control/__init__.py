"""Ways to steer a trained flow while it samples. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rectiflow.control.editing import edit
    from rectiflow.control.guidance import Guidance
    from rectiflow.control.inverse import flow_chef, pigdm, pnp_flow, solve_inverse
    from rectiflow.control.loss_guidance import sample_with_loss
    from rectiflow.control.measurement import Measurement, blurring, downsampling, inpainting
    from rectiflow.control.posterior import Ensemble, sample_posterior
    from rectiflow.control.resampling import effective_size, systematic
    from rectiflow.control.search import Found, best_of, rollover, stepwise_best
    from rectiflow.control.steering import steer

_HOMES = {
    "Ensemble": "rectiflow.control.posterior",
    "Found": "rectiflow.control.search",
    "Guidance": "rectiflow.control.guidance",
    "Measurement": "rectiflow.control.measurement",
    "best_of": "rectiflow.control.search",
    "blurring": "rectiflow.control.measurement",
    "downsampling": "rectiflow.control.measurement",
    "edit": "rectiflow.control.editing",
    "effective_size": "rectiflow.control.resampling",
    "flow_chef": "rectiflow.control.inverse",
    "inpainting": "rectiflow.control.measurement",
    "pigdm": "rectiflow.control.inverse",
    "pnp_flow": "rectiflow.control.inverse",
    "rollover": "rectiflow.control.search",
    "sample_posterior": "rectiflow.control.posterior",
    "sample_with_loss": "rectiflow.control.loss_guidance",
    "solve_inverse": "rectiflow.control.inverse",
    "steer": "rectiflow.control.steering",
    "stepwise_best": "rectiflow.control.search",
    "systematic": "rectiflow.control.resampling",
}

__all__ = [
    "Ensemble",
    "Found",
    "Guidance",
    "Measurement",
    "best_of",
    "blurring",
    "downsampling",
    "edit",
    "effective_size",
    "flow_chef",
    "inpainting",
    "pigdm",
    "pnp_flow",
    "rollover",
    "sample_posterior",
    "sample_with_loss",
    "solve_inverse",
    "steer",
    "stepwise_best",
    "systematic",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rectiflow.control' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
