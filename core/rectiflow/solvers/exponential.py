"""What the exponential solvers share: the path on their grid, and the weights of one step.

On x = a x1 + s x0 the flow is solved exactly by x_{i+1} = (s_{i+1}/s_i) x_i + s_{i+1} int e^u X(u) du over u = log(a/s), where
X is the data prediction (DPM-Solver++, arXiv 2211.01095, eq. 8); a solver only has to extrapolate X. Running towards the source,
data and noise, a and s, change places (DPM-Solver, arXiv 2206.00927), which keeps the same formulas finite at t = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction

ROUNDING = 1e-12


@dataclass(frozen=True)
class Rungs:
    """The path on a solver's grid, N + 1 plain numbers each, seen in the direction of travel.

    Attributes:
        kind: what the path leads to and the solver predicts: data forwards, noise backwards.
        lead: coefficient of that: a forwards, s backwards.
        fade: coefficient of the end that is left: s forwards, a backwards.
        clock: log(lead / fade), increasing; infinite where a coefficient is 0.
        first: index of the first finite clock time.
        last: index of the last.
    """

    kind: Prediction
    lead: list[float]
    fade: list[float]
    clock: list[float]
    first: int
    last: int

    def first_order(self, i: int) -> tuple[float, float]:
        """Weights of the state and of the prediction in a step that holds the prediction fixed; finite on the whole of [0, 1]."""
        ratio = self.fade[i + 1] / self.fade[i]
        return ratio, self.lead[i + 1] - ratio * self.lead[i]

    def polynomial(self, i: int, newest: int, count: int) -> tuple[float, ...]:
        """Weights of the state and of predictions in step i, X being the polynomial through them.

        There are `count` of them, one to three, at the grid's entries `newest`, `newest` - 1, ..., whose clock times are finite.
        With d the distance from clock time i, the integral of e^{d - h} d^k over the step is I_0 = 1 - e^{-h} and
        I_k = h^k - k I_{k-1}; these meet the Newton form of the polynomial.
        """
        h = self.clock[i + 1] - self.clock[i]
        zeroth = -math.expm1(-h)
        first = h - zeroth
        second = h * h - 2 * first
        ratio, lead = self.fade[i + 1] / self.fade[i], self.lead[i + 1]
        if count == 1:
            return ratio, lead * zeroth
        begin, d0 = self.clock[i], self.clock[newest] - self.clock[i]
        d1 = self.clock[newest - 1] - begin
        slope = (first - d0 * zeroth) / (d1 - d0)
        if count == 2:
            return ratio, lead * (zeroth - slope), lead * slope
        d2 = self.clock[newest - 2] - begin
        bend = (second - (d0 + d1) * first + d0 * d1 * zeroth) / (d0 - d1)
        near, far = bend / (d0 - d2), bend / (d1 - d2)
        return ratio, lead * (zeroth - slope + near), lead * (slope - far), lead * (far - near)

    def finite(self, i: int) -> bool:
        """Whether the clock is finite at both ends of step i, so that a polynomial in it makes sense there."""
        return self.first <= i < self.last

    def usable(self, newest: int, known: int) -> int:
        """How many of `known` predictions, the newest at that entry of the grid, stand at finite clock times."""
        return min(known, newest - self.first + 1)


def rungs(interpolant: Interpolant, times: list[float]) -> Rungs:
    """The path on the grid."""
    c = interpolant.coefficients(torch.tensor(times, dtype=torch.float64))
    a, s = c.a.tolist(), c.s.tolist()
    forwards = times[-1] > times[0]
    lead, fade = (a, s) if forwards else (s, a)
    clock = [_log_ratio(ahead, behind) for ahead, behind in zip(lead, fade, strict=True)]
    finite = [i for i, value in enumerate(clock) if math.isfinite(value)]
    first, last = (finite[0], finite[-1]) if finite else (0, 0)
    return Rungs("data" if forwards else "noise", lead, fade, clock, first, last)


def _log_ratio(numerator: float, denominator: float) -> float:
    """log(numerator / denominator), infinite where one of them is 0 but for rounding, as cos(pi / 2) is."""
    if numerator < ROUNDING:
        return -math.inf
    return math.inf if denominator < ROUNDING else math.log(numerator / denominator)
