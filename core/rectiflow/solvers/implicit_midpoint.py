"""The implicit midpoint rule, order 2, symmetric: the same steps backwards undo it to rounding, with no state beside x.

Hairer, Lubich and Wanner, Geometric Numerical Integration, II.1 and VIII.6 (fixed-point iteration).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from rectiflow.batch import dtype_of
from rectiflow.errors import ConvergenceError
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.norms import scaled_rms, tolerated
from rectiflow.spaces.space import Space

ROUNDS = 100


def implicit_midpoint(
    field: VelocityField,
    x: Any,
    times: list[float],
    space: Space,
    observe: Observer | None = None,
    *,
    rtol: float | None = None,
) -> Any:
    """x <- x + h k with k = v(x + h k / 2, t + h/2), iterated until h k moves by less than the tolerance.

    Args:
        field: the velocity field.
        x: state at the first time.
        times: grid.
        space: any.
        observe: sees every step.
        rtol: change of a step, relative to 1 + |x|, at which the iteration ends; 16 units of rounding by default.

    Raises:
        ConvergenceError: a step does not converge, for which h times the slope of v must be below 2.
    """
    rtol = 16 * torch.finfo(dtype_of(x)).eps if rtol is None else rtol
    slope: Any = None
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        middle = t + h / 2
        slope = field(x, middle) if slope is None else slope
        change, scales = math.inf, tolerated(space, x, x, rtol / abs(h), rtol / abs(h))
        for _ in range(ROUNDS):
            halfway = space.step(x, slope, h / 2)
            # On a curved space the midpoint is that of the geodesic, and its tangent at either end the slope, carried there.
            found = space.transport(halfway, x, field(halfway, middle))
            change = scaled_rms(space.combine((found, slope), (1.0, -1.0)), scales)
            slope = found
            if not change > 1:  # a NaN ends the iteration too; it is named where the solve ends
                break
        else:
            raise ConvergenceError(
                f"implicit_midpoint changed by {change:.3g} times its tolerance {rtol:.3g} after {ROUNDS} rounds in step "
                f"{i + 1} of {len(times) - 1}; allowed: at most 1; use more steps or a larger rtol"
            )
        if observe is not None:
            observe(i, t, x, slope)
        x = space.step(x, slope, h)
    return x
