"""Editing by inversion: back towards noise under one condition, forward again under another."""

from __future__ import annotations

from rectiflow.batch import Cond, State
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import Solution, integrate
from rectiflow.solvers.catalogue import ADAPTIVE, STOCHASTIC
from rectiflow.times import time_grid


def edit(
    flow: Flow,
    x1: State,
    *,
    source: Cond | None,
    target: Cond,
    steps: int = 8,
    method: str = "fireflow",
    strength: float = 1.0,
    shift: float = 1.0,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Carry data back to t = 1 - strength under its own condition, and forward to data again under another one.

    What the flow keeps on the way, the layout of an image for instance, stays. FireFlow (arXiv 2412.07517) returns to where it
    came from to third order at one evaluation a step, and "rf_solver" (arXiv 2411.04746) at two.

    Args:
        flow: what to follow.
        x1: (B, ...) data.
        source: name -> (B, ...), what x1 is; None for a flow without conditions.
        target: name -> (B, ...), what it shall be.
        steps: of either direction.
        method: a deterministic fixed-step solver.
        strength: in (0, 1]; 1 goes back to the source, less keeps more of x1.
        shift: time shift of the grid.
        guidance: on the way forward; the way back runs without.

    Returns:
        The edited data, with the evaluations of both directions and the times of the second.

    Raises:
        ConfigError: strength outside (0, 1], or a stochastic or adaptive method.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"edit strength is {strength}; allowed: above 0, up to 1")
    if method in STOCHASTIC | ADAPTIVE:
        raise ConfigError(
            f"edit got the method {method!r}; it needs a deterministic one with fixed steps, such as fireflow"
        )
    times = (1 - strength * (1 - time_grid(steps, shift))).clamp(min=0)
    back = integrate(flow, x1, times=times.flip(0), method=method, cond=source)
    forth = integrate(flow, back.x, times=times, method=method, cond=target, guidance=guidance)
    return Solution(forth.x, back.nfe + forth.nfe, forth.times)
