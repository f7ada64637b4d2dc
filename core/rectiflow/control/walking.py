"""The loop of every guided sampler: a field, a grid, and a rule that moves the state from one time to the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, parts
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.sampling import Solution
from rectiflow.solvers.field import VelocityField
from rectiflow.times import check_grid, time_grid

Move = Callable[[VelocityField, Any, float, float], Any]
"""(field, x, t, t_next) -> x at t_next."""


def forward_grid(steps: int | None, times: Tensor | None, shift: float = 1.0) -> list[float]:
    """The increasing grid of plain numbers that `steps` and `shift`, or else `times`, stand for.

    Raises:
        ConfigError: both or neither are given, or the grid is not increasing inside [0, 1].
    """
    if (steps is None) == (times is None):
        raise ConfigError(
            f"got {'both' if steps is not None else 'neither'} of steps and times; give exactly one of them"
        )
    grid = check_grid(time_grid(steps, shift) if steps is not None else times)  # type: ignore[arg-type]  # one is there
    if grid[0] > grid[-1]:
        raise ConfigError(f"times go from {grid[0]:g} to {grid[-1]:g}; guided sampling goes up, towards data at 1")
    return grid


def walk(
    flow: Flow, x: State, grid: list[float], move: Move, cond: Cond | None, guidance: Guidance | float = NO_GUIDANCE
) -> Solution:
    """Apply `move` along a grid, outside of autograd: rules that need gradients record their own.

    Raises:
        NonFiniteError: a step left the finite numbers; the message names the first.
    """
    field = VelocityField(flow, x, cond, guidance_of(guidance), grid)
    with torch.no_grad():
        for step, (t, t_next) in enumerate(itertools.pairwise(grid), 1):
            x = move(field, x, t, t_next)
            check_finite(x, step, len(grid) - 1)
    return Solution(x, field.evaluations, torch.tensor(grid, dtype=torch.float64))


def guidance_of(guidance: Guidance | float) -> Guidance:
    """A plain number as a guidance scale on all times."""
    return guidance if isinstance(guidance, Guidance) else Guidance(float(guidance))


def check_finite(x: State, step: int, steps: int) -> None:
    """Refuse to go on from NaN or infinity.

    Raises:
        NonFiniteError: as said.
    """
    if not all(bool(torch.isfinite(part).all()) for part in parts(x)):
        raise NonFiniteError(
            f"guided sampling gave NaN or infinite values at step {step} of {steps}; take a smaller step size or more steps"
        )
