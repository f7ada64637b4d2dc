"""rectiflow: a flow-matching core that any domain can stand on.

Names are imported when they are first used, so that `import rectiflow` (and with it the command line's help) does not pay for
importing torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rectiflow import (
        adapters,
        analytic,
        analytic_couplings,
        control,
        couplings,
        diagnostics,
        errors,
        likelihood,
        rectify,
        sources,
        times,
    )
    from rectiflow.adapters import ReversedTime
    from rectiflow.batch import Batch
    from rectiflow.control.guidance import Guidance
    from rectiflow.domain import Domain, DomainSpec
    from rectiflow.flow import Flow
    from rectiflow.interpolants import (
        Exponential,
        Interpolant,
        Linear,
        LinearVariancePreserving,
        Lipman,
        Polynomial,
        SubVariancePreserving,
        Trigonometric,
        VariancePreserving,
    )
    from rectiflow.likelihood import log_prob, sample_with_log_prob
    from rectiflow.matching import FlowMatching
    from rectiflow.mean_reversion import mean_reverting
    from rectiflow.path_conversion import convert_path
    from rectiflow.sampling import Solution, integrate, invert, sample
    from rectiflow.schedules import scheduled
    from rectiflow.score_and_flow import ScoreAndFlow
    from rectiflow.solvers.diffusion import Diffusion
    from rectiflow.spaces.euclidean import Euclidean
    from rectiflow.spaces.igso3 import IGSO3
    from rectiflow.spaces.product import Product
    from rectiflow.spaces.so3 import SO3
    from rectiflow.spaces.space import Space
    from rectiflow.spaces.sphere import Sphere
    from rectiflow.spaces.torus import Torus
    from rectiflow.spaces.zero_mean import ZeroMean
    from rectiflow.stochastic_interpolant import LatentScore, StochasticInterpolant

_HOMES = {
    "Batch": "rectiflow.batch",
    "Diffusion": "rectiflow.solvers.diffusion",
    "Domain": "rectiflow.domain",
    "DomainSpec": "rectiflow.domain",
    "Euclidean": "rectiflow.spaces.euclidean",
    "Exponential": "rectiflow.interpolants",
    "Flow": "rectiflow.flow",
    "FlowMatching": "rectiflow.matching",
    "Guidance": "rectiflow.control.guidance",
    "IGSO3": "rectiflow.spaces.igso3",
    "Interpolant": "rectiflow.interpolants",
    "LatentScore": "rectiflow.stochastic_interpolant",
    "Linear": "rectiflow.interpolants",
    "LinearVariancePreserving": "rectiflow.interpolants",
    "Lipman": "rectiflow.interpolants",
    "Polynomial": "rectiflow.interpolants",
    "Product": "rectiflow.spaces.product",
    "ReversedTime": "rectiflow.adapters",
    "SO3": "rectiflow.spaces.so3",
    "ScoreAndFlow": "rectiflow.score_and_flow",
    "Solution": "rectiflow.sampling",
    "Space": "rectiflow.spaces.space",
    "Sphere": "rectiflow.spaces.sphere",
    "StochasticInterpolant": "rectiflow.stochastic_interpolant",
    "SubVariancePreserving": "rectiflow.interpolants",
    "Torus": "rectiflow.spaces.torus",
    "Trigonometric": "rectiflow.interpolants",
    "VariancePreserving": "rectiflow.interpolants",
    "ZeroMean": "rectiflow.spaces.zero_mean",
    "convert_path": "rectiflow.path_conversion",
    "integrate": "rectiflow.sampling",
    "invert": "rectiflow.sampling",
    "log_prob": "rectiflow.likelihood",
    "mean_reverting": "rectiflow.mean_reversion",
    "sample": "rectiflow.sampling",
    "sample_with_log_prob": "rectiflow.likelihood",
    "scheduled": "rectiflow.schedules",
}
_MODULES = (
    "adapters",
    "analytic",
    "analytic_couplings",
    "control",
    "couplings",
    "diagnostics",
    "errors",
    "likelihood",
    "rectify",
    "sources",
    "times",
)

__all__ = [
    "IGSO3",
    "SO3",
    "Batch",
    "Diffusion",
    "Domain",
    "DomainSpec",
    "Euclidean",
    "Exponential",
    "Flow",
    "FlowMatching",
    "Guidance",
    "Interpolant",
    "LatentScore",
    "Linear",
    "LinearVariancePreserving",
    "Lipman",
    "Polynomial",
    "Product",
    "ReversedTime",
    "ScoreAndFlow",
    "Solution",
    "Space",
    "Sphere",
    "StochasticInterpolant",
    "SubVariancePreserving",
    "Torus",
    "Trigonometric",
    "VariancePreserving",
    "ZeroMean",
    "adapters",
    "analytic",
    "analytic_couplings",
    "control",
    "convert_path",
    "couplings",
    "diagnostics",
    "errors",
    "integrate",
    "invert",
    "likelihood",
    "log_prob",
    "mean_reverting",
    "rectify",
    "sample",
    "sample_with_log_prob",
    "scheduled",
    "sources",
    "times",
]

try:
    __version__ = version("rectiflow")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"rectiflow.{name}")
    else:
        raise AttributeError(f"module 'rectiflow' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
