"""What a network may predict, and the exact conversions between the four forms on x_t = a x1 + s x0.

All four are affine in one another at fixed (x, t); velocity is the hub because it is bounded on the whole of [0, 1].
Conversions to and from the others divide by a or s, which vanish at one end each: t is kept `margin` away from that end, and is
exact at the other, where few-step samplers evaluate.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.interpolants import Interpolant

Prediction = Literal["velocity", "data", "noise", "score"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
MARGIN = 1e-3


def span(kind: Prediction, target: Prediction, margin: float = MARGIN) -> tuple[float, float]:
    """First and last time at which a prediction of one kind tells the target; the conversion is 0/0 at an end left out.

    Data tell nothing else at t = 1, noise and score neither velocity nor data at t = 0, and nothing but itself the score at 1.
    """
    low = margin if kind in ("noise", "score") and target in ("velocity", "data") else 0.0
    high = 1 - margin if kind != target and (kind == "data" or target == "score") else 1.0
    return low, high


def check_prediction(kind: str) -> None:
    """Refuse a name that is not a prediction type.

    Raises:
        ConfigError: `kind` is none of velocity, data, noise, score.
    """
    if kind not in PREDICTIONS:
        raise ConfigError(f"prediction type {kind!r} is unknown; allowed: {', '.join(PREDICTIONS)}")


def to_velocity(
    prediction: Tensor, kind: Prediction, x: Tensor, t: Tensor, interpolant: Interpolant, margin: float = MARGIN
) -> Tensor:
    """Velocity E[x_t' | x_t = x] from a prediction of the given kind.

    Args:
        prediction: (B, ...), what the network put out at (x, t).
        kind: velocity | data (E[x1|x]) | noise (E[x0|x]) | score (grad log p_t; needs x0 ~ N(0, I) independent of x1).
        x: (B, ...) state.
        t: (B,) times in [0, 1].
        interpolant: the path that the network was trained on.
        margin: distance from the singular end at which t is clamped.
    """
    if kind == "velocity":
        return prediction
    c = interpolant.coefficients(t.clamp(*span(kind, "velocity", margin))).expand_to(x)
    if kind == "data":
        return (c.ds * x + c.determinant * prediction) / c.s
    noise = prediction if kind == "noise" else -c.s * prediction
    return (c.da * x - c.determinant * noise) / c.a


def from_velocity(
    velocity: Tensor, kind: Prediction, x: Tensor, t: Tensor, interpolant: Interpolant, margin: float = MARGIN
) -> Tensor:
    """The quantity `kind` from the velocity at (x, t); arguments and shapes as in `to_velocity`.

    A path that starts with zero speed (polynomial, n > 1) says nothing of data there: times before its standstill count as that.
    """
    if kind == "velocity":
        return velocity
    if kind == "score":  # the noise estimate is bounded, only its division by s(1) = 0 needs the clamp
        noise = from_velocity(velocity, "noise", x, t, interpolant)
        return -noise / interpolant.coefficients(t.clamp(max=1 - margin)).expand_to(x).s
    c = interpolant.coefficients(t.clamp(min=interpolant.standstill)).expand_to(x)
    if kind == "data":
        return (c.s * velocity - c.ds * x) / c.determinant
    return (c.da * x - c.a * velocity) / c.determinant


def velocity_weight(kind: Prediction, t: Tensor, interpolant: Interpolant, margin: float = MARGIN) -> Tensor:
    """Factor (B,) that makes the squared error of a prediction equal to the squared error of its velocity.

    (D/s)^2 for data, (D/a)^2 for noise, (s D/a)^2 for score, 1 for velocity; t is clamped as in `to_velocity`.
    """
    if kind == "velocity":
        return torch.ones_like(t)
    c = interpolant.coefficients(t.clamp(*span(kind, "velocity", margin)))
    factor = 1 / c.s if kind == "data" else (1 / c.a if kind == "noise" else c.s / c.a)
    return (c.determinant * factor).square()
