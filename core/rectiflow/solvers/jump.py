"""Jumps of average velocities, one evaluation a step, exact for an exact model."""

from __future__ import annotations

import itertools
from typing import Any

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


def jump(field: VelocityField, x: Any, times: list[float], space: Space, observe: Observer | None = None) -> Any:
    """x <- exp_x(h u(x, t, t + h)) with u the average velocity over the step (arXiv 2505.13447, 2410.12557).

    On a flow whose model takes no second time it is Euler's method.
    """
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        u = field.average(x, t, t_next)
        if observe is not None:
            observe(i, t, x, u)
        x = space.step(x, u, t_next - t)
    return x
