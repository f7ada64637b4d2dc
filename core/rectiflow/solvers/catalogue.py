"""The solvers by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from rectiflow.errors import ConfigError
from rectiflow.solvers.euler import euler
from rectiflow.solvers.heun import heun
from rectiflow.solvers.midpoint import midpoint
from rectiflow.solvers.rk4 import rk4

Solver = Callable[..., Any]

SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "midpoint": midpoint,
    "rf_solver": midpoint,
    "heun": heun,
    "rk4": rk4,
}


def solver(name: str) -> Solver:
    """The solver of that name: a function (field, x, times, space, observe) -> x at the last time.

    Raises:
        ConfigError: no solver has that name.
    """
    if name in SOLVERS:
        return SOLVERS[name]
    close = difflib.get_close_matches(name, SOLVERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"solver {name!r} is unknown; allowed: {', '.join(sorted(SOLVERS))}{hint}")
