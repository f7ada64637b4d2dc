"""The solvers by name, and what each of them takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rectiflow.errors import ConfigError
from rectiflow.solvers.ab2 import ab2
from rectiflow.solvers.ddim import ddim
from rectiflow.solvers.dopri5 import dopri5
from rectiflow.solvers.dpmpp_2m import dpmpp_2m
from rectiflow.solvers.dpmpp_3m import dpmpp_3m
from rectiflow.solvers.euler import euler
from rectiflow.solvers.euler_maruyama import euler_maruyama
from rectiflow.solvers.fireflow import fireflow
from rectiflow.solvers.flow_turbo import flow_turbo
from rectiflow.solvers.heun import heun
from rectiflow.solvers.implicit_midpoint import implicit_midpoint
from rectiflow.solvers.jump import jump
from rectiflow.solvers.midpoint import midpoint
from rectiflow.solvers.pseudo_corrector import pseudo_corrector
from rectiflow.solvers.reinterpolate import reinterpolate
from rectiflow.solvers.reversible_heun import reversible_heun
from rectiflow.solvers.rk4 import rk4
from rectiflow.solvers.stochastic_heun import stochastic_heun
from rectiflow.solvers.unipc import unipc
from rectiflow.spaces.space import Space

Solver = Callable[..., Any]

SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "jump": jump,
    "midpoint": midpoint,
    "rf_solver": midpoint,
    "heun": heun,
    "rk4": rk4,
    "ab2": ab2,
    "fireflow": fireflow,
    "pseudo_corrector": pseudo_corrector,
    "flow_turbo": flow_turbo,
    "reinterpolate": reinterpolate,
    "ddim": ddim,
    "dpm++2m": dpmpp_2m,
    "dpm++3m": dpmpp_3m,
    "unipc": unipc,
    "dopri5": dopri5,
    "implicit_midpoint": implicit_midpoint,
    "reversible_heun": reversible_heun,
    "euler_maruyama": euler_maruyama,
    "stochastic_heun": stochastic_heun,
}
ADAPTIVE = frozenset({"dopri5"})
STOCHASTIC = frozenset({"euler_maruyama", "stochastic_heun"})
HALFWAY = frozenset({"midpoint", "rf_solver", "rk4", "fireflow", "implicit_midpoint"})
"""Solvers that evaluate in the middle of their steps."""
ANY_SPACE = frozenset(
    {"euler", "jump", "midpoint", "rf_solver", "heun", "rk4", "ab2", "fireflow", "pseudo_corrector", "flow_turbo"}
    | {"dopri5", "implicit_midpoint"}
)
TOWARDS_DATA = frozenset({"ddim"})
"""Solvers that move on curved spaces as well if the flow predicts data, and only towards data."""
_OPTIONS = {
    name: frozenset(p.name for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY)
    for name, run in SOLVERS.items()
}


def solver(name: str) -> Solver:
    """The solver of that name: a function (field, x, times, space, observe, *, options) -> x at the last time.

    Raises:
        ConfigError: no solver has that name.
    """
    if name in SOLVERS:
        return SOLVERS[name]
    close = difflib.get_close_matches(name, SOLVERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"solver {name!r} is unknown; allowed: {', '.join(sorted(SOLVERS))}{hint}")


def check_solver(name: str, space: Space, options: Mapping[str, Any]) -> None:
    """Refuse a space that a solver cannot move in, and options that it does not take.

    Raises:
        ConfigError: as said, or noise without a generator.
    """
    if name not in ANY_SPACE | TOWARDS_DATA and not space.linear:
        raise ConfigError(
            f"solver {name!r} adds states, which {space!r} does not allow; use one of {', '.join(sorted(ANY_SPACE))}, "
            "or ddim with a flow that predicts data"
        )
    check_options(name, options)
    if name in STOCHASTIC and "generator" not in options:
        raise ConfigError(f"solver {name!r} draws noise and got no generator; pass generator=torch.Generator(...)")


def check_options(name: str, options: Iterable[str]) -> None:
    """Refuse a name that is no solver's, and options that the solver does not take.

    Raises:
        ConfigError: as said.
    """
    solver(name)
    unknown = sorted(set(options) - _OPTIONS[name])
    if unknown:
        taken = ", ".join(sorted(_OPTIONS[name])) or "none"
        raise ConfigError(f"solver {name!r} got the option {unknown[0]!r}; it takes: {taken}; leave the option out")
