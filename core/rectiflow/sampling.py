"""Moving states along a flow: from source to data, back, or along any grid of times."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, Shape, State, parts
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.solvers.catalogue import solver
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.times import check_grid, time_grid


@dataclass(frozen=True)
class Solution:
    """Where a solver ended.

    Attributes:
        x: state at the last time.
        nfe: network evaluations per sample; a guided evaluation counts twice.
        times: (N + 1,) grid in float64.
        trajectory: the N + 1 states on the grid when they were asked for, else None.
    """

    x: Any
    nfe: int
    times: Tensor
    trajectory: list[Any] | None = None


def integrate(
    flow: Flow,
    x: State,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    method: str = "euler",
    shift: float = 1.0,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    trajectory: bool = False,
    observe: Observer | None = None,
    differentiable: bool = False,
    check_finite: bool = True,
    generator: torch.Generator | None = None,
) -> Solution:
    """Solve dx/dt = v(x, t) from a state at the first time of the grid to the last.

    Args:
        flow: what to follow.
        x: (B, ...) state at the first time.
        steps: number of steps on the grid from 0 to 1; give this or `times`.
        times: (N + 1,) strictly monotone grid in [0, 1]; decreasing grids run towards the source.
        method: a solver's name.
        shift: time shift of the grid made from `steps`.
        cond: name -> (B, ...).
        guidance: scale of classifier-free guidance, or a `Guidance` with an interval.
        trajectory: keep every state of the grid.
        observe: called with (step, t, x, velocity) before every step.
        differentiable: record the solve for autograd; by default it runs without.
        check_finite: look, once and after the last step, for NaN or infinity.
        generator: randomness of stochastic solvers; the deterministic ones draw nothing.

    Raises:
        ConfigError: both or neither of steps and times, a bad grid, an unknown method, or guidance without its conditions.
        NonFiniteError: the state is NaN or infinite; the message names the step where it first was.
    """
    if steps is not None and times is None:
        times = time_grid(steps, shift)
    elif steps is not None or times is None:
        seen = "both" if steps is not None else "neither"
        raise ConfigError(f"integrate got {seen} of steps and times; give exactly one of them")
    grid = check_grid(times)
    solve = solver(method)
    if isinstance(guidance, (int, float)):
        guidance = Guidance(float(guidance))
    halfway = [t + (t_next - t) / 2 for t, t_next in itertools.pairwise(grid)]
    field = VelocityField(flow, x, cond, guidance, [*grid, *halfway])
    states: list[Any] = []

    def record(step: int, t: float, state: Any, velocity: Any) -> None:
        states.append(state)
        if observe is not None:
            observe(step, t, state, velocity)

    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        end = solve(field, x, grid, flow.space, record if trajectory else observe)
        if check_finite and not _finite(end):
            first = _first_nonfinite(flow, x, grid, method, cond, guidance)
            raise NonFiniteError(
                f"sampling gave NaN or infinite values at step {first} of {len(grid) - 1} ({method}); "
                "check the weights and the conditions"
            )
    return Solution(
        end, field.evaluations, times.detach().to("cpu", torch.float64), [*states, end] if trajectory else None
    )


def sample(
    flow: Flow,
    shape: Shape,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    method: str = "euler",
    shift: float = 1.0,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """Draw from the source and carry it to data: x1 of the given shape, batch axis included.

    Arguments and errors as in `integrate`; same generator state, same machine: same bits.
    """
    x0 = flow.sample_source(shape, cond, generator, device=device, dtype=dtype)
    solution = integrate(
        flow,
        x0,
        steps=steps,
        times=times,
        method=method,
        shift=shift,
        cond=cond,
        guidance=guidance,
        generator=generator,
    )
    return solution.x


def invert(
    flow: Flow,
    x1: State,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    method: str = "midpoint",
    shift: float = 1.0,
    cond: Cond | None = None,
) -> Any:
    """Carry data (B, ...) back to its source along the same flow, without guidance.

    `steps` gives the reversed sampling grid; `times`, when given, must decrease. Errors as in `integrate`.
    """
    if steps is not None and times is None:
        times, steps = time_grid(steps, shift).flip(0), None
    if times is not None and times.ndim == 1 and times.numel() > 1 and bool(times[0] < times[-1]):
        raise ConfigError(
            f"inversion got times from {float(times[0]):g} to {float(times[-1]):g}; they must decrease from 1 towards 0"
        )
    return integrate(flow, x1, steps=steps, times=times, method=method, cond=cond).x


def _finite(state: State) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in parts(state))


def _first_nonfinite(
    flow: Flow, x: State, grid: list[float], method: str, cond: Cond | None, guidance: Guidance
) -> int:
    """Solve once more with a look at every state: paid only by runs that have failed already."""
    bad: list[int] = []

    def look(step: int, t: float, state: Any, velocity: Any) -> None:
        if not bad and not _finite(state):
            bad.append(max(step, 1))  # the step before this one made it; a bad start shows in the first
        elif not bad and not _finite(velocity):
            bad.append(step + 1)

    solver(method)(VelocityField(flow, x, cond, guidance), x, grid, flow.space, look)
    return bad[0] if bad else len(grid) - 1
