"""One trained model on any other path, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import State, map_state
from rectiflow.errors import ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Coefficients, Interpolant
from rectiflow.stochastic_interpolant import StochasticInterpolant


def convert_path(flow: Flow, interpolant: Interpolant) -> Flow:
    """The same flow, sampled along another path: same ends for every source, no retraining.

    Two paths with the same ratio a / s differ by a factor, x' = c x, so that a state of the new path at time r is one of the old
    path at the time t(r) of the same ratio; data and noise estimates are the same there, and velocity and score follow from them.
    Conditions, guidance and self-conditioning work as before. Below the lowest ratio that the old path reaches (VP starts at
    0.0066) the model is asked at its first time, and a velocity model no earlier than the old path's `standstill`.

    Args:
        flow: what was trained; any prediction type.
        interpolant: the path to sample on.

    Raises:
        ConversionError: a path with latent noise, or a curved space and a path that is no reparametrised geodesic.
    """
    if any(isinstance(path, StochasticInterpolant) for path in (flow.interpolant, interpolant)):
        raise ConversionError(
            "paths with latent noise have no common ratio a / s; use the path's one_sided() for a normal, independent source"
        )
    if not flow.space.linear and not (flow.interpolant.convex and interpolant.convex):
        raise ConversionError(
            f"{flow.space!r} is not linear: only convex paths (linear, polynomial) can be exchanged on it, got "
            f"{flow.interpolant!r} and {interpolant!r}"
        )
    score_model = (
        None if flow.score_model is None else Rescaled(flow.score_model, "score", flow.interpolant, interpolant)
    )
    model = Rescaled(flow.model, flow.predicts, flow.interpolant, interpolant)
    return replace(flow, model=model, interpolant=interpolant, score_model=score_model)


class Rescaled(nn.Module):
    """A model of the old path, called with states and times of the new one, predicting what it did.

    Args:
        model: callable `model(x, t, **cond)` of the old path.
        predicts: what its output means.
        old: the path that it was trained on.
        new: the path that it is asked on.
    """

    def __init__(self, model: Callable[..., Any], predicts: str, old: Interpolant, new: Interpolant) -> None:
        super().__init__()
        self.model = model
        self.predicts = predicts
        self.old = old
        self.new = new

    def forward(self, x: State, t: Tensor, **cond: Tensor) -> Any:
        """Prediction of x's shape at states x (B, ...) and times t (B,) of the new path."""
        new = self.new.coefficients(t)
        start = self.old.time_of(new.ratio)
        if self.predicts == "velocity":
            start = start.clamp(min=self.old.standstill)
        old = self.old.coefficients(start)
        if self.old.convex and self.new.convex:  # the same geodesic at another speed, on curved spaces too
            return self._respeed(self.model(x, start, **cond), new.da / old.da)
        # Both norms are positive on the whole of [0, 1], where a / a and s / s are 0 / 0 at one end each.
        c = torch.hypot(new.a, new.s) / torch.hypot(old.a, old.s)
        inner = map_state(lambda part: (part / _rows(c, part)).to(part.dtype), x)
        prediction = self.model(inner, start, **cond)
        if self.predicts == "velocity":
            return map_state(lambda v, part: _velocity(v, part, old, new), prediction, inner)
        if self.predicts == "score":
            return map_state(lambda score: score / _rows(c, score), prediction)
        return prediction

    def _respeed(self, prediction: Any, rate: Tensor) -> Any:
        if self.predicts != "velocity":
            return prediction
        return map_state(lambda part: _rows(rate, part) * part, prediction)


def _velocity(velocity: Tensor, x: Tensor, old: Coefficients, new: Coefficients) -> Tensor:
    """a' and s' of the new path times the data and noise that the old path's velocity at x stands for."""
    gain = (new.da * old.s - new.ds * old.a) / old.determinant
    pull = (new.ds * old.da - new.da * old.ds) / old.determinant
    return (_rows(gain, x) * velocity + _rows(pull, x) * x).to(x.dtype)


def _rows(factor: Tensor, x: Tensor) -> Tensor:
    return factor.reshape((-1,) + (1,) * (x.ndim - 1))
