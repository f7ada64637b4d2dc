"""The adaptive Runge-Kutta pair of Dormand and Prince, order 5(4), with dense output of order 4.

Coefficients, step control and dense output: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4-6. The
last stage of a step is the first of the next, so that an accepted or rejected step costs six evaluations.

On a curved space a step is one in the normal coordinates at its start, to which every stage is pulled back (Munthe-Kaas), and so
is its error, an angle in radians on spheres and rotations, against atol + rtol.

Where a prediction does not tell the velocity at the end of the solve, the pair stops `MARGIN` before it; what is left is one step
of Euler's method with the velocity found there.
"""

from __future__ import annotations

import math
from typing import Any

from rectiflow.errors import ConfigError, ConvergenceError, NonFiniteError
from rectiflow.predictions import MARGIN
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.norms import scaled_rms, tolerated
from rectiflow.spaces.space import Space

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
DENSE = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
MEMORY = 0.04  # exponent of the last error: the integral part of the step control
RESPONSE = 0.2 - 0.75 * MEMORY


def dopri5(
    field: VelocityField,
    x: Any,
    times: list[float],
    space: Space,
    observe: Observer | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_nfe: int = 10_000,
) -> Any:
    """Solve from the first time to the last with steps whose error stays below atol + rtol |x|, in the batch's mean square.

    Args:
        field: the velocity field.
        x: state at the first time.
        times: grid on which `observe` sees the solution, by dense output; the steps do not depend on its inner times.
        space: any.
        observe: sees (i, t_i, x, dx/dt) for every time of the grid but the last; on a curved space each inner time costs it one
            evaluation.
        rtol: relative tolerance, at least 0.
        atol: absolute tolerance, above 0.
        max_nfe: the most network evaluations a sample that may be spent.

    Raises:
        ConfigError: a tolerance out of range.
        ConvergenceError: `max_nfe` is reached, or the step falls below rounding.
        NonFiniteError: the velocity is NaN or infinite.
    """
    if not (rtol >= 0 and atol > 0):
        raise ConfigError(f"dopri5 got rtol {rtol:g} and atol {atol:g}; allowed: rtol of at least 0, atol above 0")
    t, end, shown = times[0], _stop(field, times[0], times[-1]), 1
    sign = math.copysign(1.0, end - t)
    v = space.tangent(x, field(x, t))
    if observe is not None:
        observe(0, t, x, v)
    h = _first_step(field, x, v, t, end, space, rtol, atol)
    last_error, grow = 1e-4, GROW
    while True:
        final = 1.01 * h >= abs(end - t)
        h = abs(end - t) if final else h
        _check_budget(field, t, h, rtol, atol, max_nfe)
        t_next = end if final else t + sign * h
        y, slopes, v_next = _attempt(field, x, v, t, t_next, space)
        error = scaled_rms(
            space.combine(slopes, [(t_next - t) * weight for weight in ERROR]), tolerated(space, x, y, rtol, atol)
        )
        if not math.isfinite(error):
            raise NonFiniteError(
                f"sampling gave NaN or infinite values between t = {t:.6g} and {t_next:.6g} (dopri5); "
                "check the weights and the conditions"
            )
        factor = max(error, 1e-10) ** -RESPONSE * SAFETY
        if error > 1:
            h, grow = h * max(SHRINK, factor), 1.0
            continue
        while observe is not None and shown < len(times) - 1 and sign * (t_next - times[shown]) >= 0:
            share = (times[shown] - t) / (t_next - t)
            state = space.advance(x, slopes, _dense_weights(share), t_next - t)
            inner = times[shown]
            rate = space.combine(slopes, _dense_rates(share)) if space.linear else field(state, inner)
            observe(shown, inner, state, rate)
            shown += 1
        if final:
            return _leave(y, v_next, end, times, shown, space, observe)
        x, v, t = y, v_next, t_next
        h *= min(grow, max(SHRINK, factor * last_error**MEMORY))
        last_error, grow = max(error, 1e-4), GROW


def _attempt(field: VelocityField, x: Any, v: Any, t: float, t_next: float, space: Space) -> tuple[Any, list[Any], Any]:
    """One step: the new state, the seven slopes as tangents at x, and the velocity at the new state, which is the last one."""
    h, linear = t_next - t, space.linear
    slopes = [v]
    y, found = x, v
    for node, weights in zip(NODES, STAGES, strict=True):
        y = space.advance(x, slopes, weights, h)
        found = field(y, t_next if node == 1.0 else t + node * h)
        slopes.append(found if linear else space.pull(x, space.combine(slopes, weights), h, found))
    return y, slopes, space.tangent(y, found)


def _stop(field: VelocityField, start: float, end: float) -> float:
    """The end, or the time before it up to which there is a velocity."""
    before = end + math.copysign(MARGIN, start - end)
    return before if field.untold(end) and (before - start) * (end - start) > 0 else end


def _leave(x: Any, v: Any, t: float, times: list[float], shown: int, space: Space, observe: Observer | None) -> Any:
    """The state at the last time from that at t, by one Euler step where the two differ; times on its way are shown."""
    if t == times[-1]:
        return x
    while observe is not None and shown < len(times) - 1:
        state = space.step(x, v, times[shown] - t)
        observe(shown, times[shown], state, space.transport(x, state, v))
        shown += 1
    return space.step(x, v, times[-1] - t)


def _first_step(
    field: VelocityField, x: Any, v: Any, t: float, end: float, space: Space, rtol: float, atol: float
) -> float:
    """A first step size from the sizes of x, v and dv/dt (Hairer, Norsett and Wanner, II.4), for one evaluation."""
    sign, longest = math.copysign(1.0, end - t), abs(end - t)
    scales = tolerated(space, x, x, rtol, atol)
    size, speed = scaled_rms(space.size(x), scales), scaled_rms(v, scales)
    if not math.isfinite(speed):
        raise NonFiniteError(
            f"sampling gave NaN or infinite values at t = {t:.6g} (dopri5); check the weights and the conditions"
        )
    guess = min(longest, 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed)
    v_next = space.pull(x, v, sign * guess, field(space.step(x, v, sign * guess), t + sign * guess))
    bend = scaled_rms(space.combine((v_next, v), (1.0, -1.0)), scales) / guess
    largest = max(speed, bend)
    better = max(1e-6, 1e-3 * guess) if not largest > 1e-15 else (0.01 / largest) ** (1 / 5)
    return min(100 * guess, better, longest)


def _check_budget(field: VelocityField, t: float, h: float, rtol: float, atol: float, max_nfe: int) -> None:
    if field.evaluations + 6 * field.cost > max_nfe:
        raise ConvergenceError(
            f"dopri5 reached t = {t:.6g} after {field.evaluations} evaluations, next step {h:.3g}; allowed: {max_nfe} "
            f"evaluations; raise max_nfe or loosen rtol {rtol:g} and atol {atol:g}"
        )
    if t + h == t:
        raise ConvergenceError(
            f"dopri5 needs a step of {h:.3g} at t = {t:.6g}, below rounding; loosen rtol {rtol:g} and atol {atol:g}"
        )


def _dense_weights(share: float) -> list[float]:
    """Weights of the slopes in (x(t + share h) - x) / h: a cubic Hermite interpolant and its correction of order 4."""
    rest = 1 - share
    return _by_slope(share * share * (3 - 2 * share), share * rest * rest, -share * share * rest, (share * rest) ** 2)


def _dense_rates(share: float) -> list[float]:
    """Weights of the slopes in dx/dt at t + share h: the derivative of `_dense_weights`."""
    rest = 1 - share
    return _by_slope(
        6 * share * rest, rest * (1 - 3 * share), share * (3 * share - 2), 2 * share * rest * (1 - 2 * share)
    )


def _by_slope(step: float, first: float, last: float, correction: float) -> list[float]:
    """Weights of the seven slopes from those of the whole step, of its end slopes and of the correction."""
    weights = [step * b + correction * d for b, d in zip((*STAGES[-1], 0.0), DENSE, strict=True)]
    weights[0] += first
    weights[-1] += last
    return weights
