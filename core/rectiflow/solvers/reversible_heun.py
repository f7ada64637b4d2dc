"""Reversible Heun (arXiv 2105.13493, algorithm 1): undone to rounding by the same steps backwards.

Order 2, N + 1 evaluations for N steps.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.spaces.space import Space


class Carried(NamedTuple):
    """The state where a solver ended, and the second state that it must be given to run backwards from there."""

    x: Any
    auxiliary: Any


def reversible_heun(
    field: VelocityField,
    x: Any,
    times: list[float],
    space: Space,
    observe: Observer | None = None,
    *,
    auxiliary: Any = None,
) -> Carried:
    """y' = 2 x - y + h v(y, t), x <- x + h (v(y, t) + v(y', t + h)) / 2, y <- y'.

    It has to look at both ends of every step to be undone: where there is no velocity at an end, it takes the one half a step
    inside, the same on both ways.

    Args:
        field: the velocity field.
        x: state at the first time.
        times: grid.
        space: a linear space.
        observe: sees every step.
        auxiliary: y at the first time; x itself by default. The inverse run starts from the y where the forward run ended.
    """
    y = x if auxiliary is None else auxiliary
    v = field(y, times[0])
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        if observe is not None:
            observe(i, t, x, v)
        y = space.combine((x, y, v), (2.0, -1.0, h))
        v_next = field(y, t_next)
        x = space.advance(x, (v, v_next), (0.5, 0.5), h)
        v = v_next
    return Carried(x, y)
