"""Moving states along a flow: from source to data, back, or along any grid of times."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, Shape, State, parts
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.predictions import MARGIN
from rectiflow.solvers.catalogue import ADAPTIVE, HALFWAY, SOLVERS, STOCHASTIC, check_solver, solver
from rectiflow.solvers.diffusion import Amount
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.flow_turbo import Blocks
from rectiflow.solvers.reversible_heun import Carried
from rectiflow.times import check_grid, grid_points


@dataclass(frozen=True)
class Solution:
    """Where a solver ended.

    Attributes:
        x: state at the last time.
        nfe: network evaluations per sample; a guided evaluation counts twice.
        times: (N + 1,) grid in float64.
        trajectory: the N + 1 states on the grid when they were asked for, else None.
        auxiliary: the second state of reversible_heun, from which its run can be undone; None for other methods.
    """

    x: Any
    nfe: int
    times: Tensor
    trajectory: list[Any] | None = None
    auxiliary: Any = None


def integrate(
    flow: Flow,
    x: State,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    method: str = "euler",
    shift: float = 1.0,
    cond: Cond | None = None,
    guidance: Guidance | float = 1.0,
    trajectory: bool = False,
    observe: Observer | None = None,
    differentiable: bool = False,
    checkpoint: bool = False,
    check_finite: bool = True,
    generator: torch.Generator | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_nfe: int | None = None,
    diffusion: Amount | None = None,
    last_step: str | None = None,
    auxiliary: Any = None,
    blocks: Blocks | None = None,
) -> Solution:
    """Solve dx/dt = v(x, t) from a state at the first time of the grid to the last.

    Args:
        flow: what to follow.
        x: (B, ...) state at the first time.
        steps: number of steps on the grid from 0 to 1; give this or `times`, and neither for an adaptive method from 0 to 1.
        times: (N + 1,) strictly monotone grid in [0, 1]; decreasing grids run towards the source.
        method: a solver's name.
        shift: time shift of the grid made from `steps`.
        cond: name -> (B, ...).
        guidance: scale of classifier-free guidance, or a `Guidance` with an interval.
        trajectory: keep every state of the grid; by default none but the current one is held.
        observe: called with (step, t, x, velocity) before every step; see `Observer`.
        differentiable: record the solve for autograd; by default it runs without.
        checkpoint: with `differentiable`, recompute the network in the backward pass: one evaluation's activations at a time.
        check_finite: look, once and after the last step, for NaN or infinity.
        generator: randomness of stochastic solvers, which need one; the others draw nothing.
        rtol: relative tolerance of dopri5 and implicit_midpoint.
        atol: absolute tolerance of dopri5.
        max_nfe: the most evaluations that dopri5 may spend.
        diffusion: eps(t) of stochastic solvers: a form's name, a number, a function of t, or a `Diffusion`.
        last_step: how a stochastic solver ends: ode | mean | tweedie | full.
        auxiliary: the second state to start reversible_heun with, from `Solution.auxiliary` of the run to undo.
        blocks: how many steps of which kind flow_turbo takes.

    Raises:
        ConfigError: both or neither of steps and times, a bad grid, an unknown method, an option or a space that the method does
            not take, noise without a generator, or guidance without its conditions.
        ConversionError: a stochastic method on a flow without a score.
        ConvergenceError: an adaptive or implicit method misses its tolerance.
        NonFiniteError: the state is NaN or infinite; the message names the step where it first was.
    """
    solve = solver(method)
    grid = _grid(steps, times, shift, method)
    given: dict[str, Any] = {"rtol": rtol, "atol": atol, "max_nfe": max_nfe, "auxiliary": auxiliary, "blocks": blocks}
    given |= {"diffusion": diffusion, "last_step": last_step, "generator": generator if method in STOCHASTIC else None}
    options = {name: value for name, value in given.items() if value is not None}
    check_solver(method, flow.space, options)
    if checkpoint and not differentiable:
        raise ConfigError(
            "integrate got checkpoint without differentiable; it serves the gradient: pass both or neither"
        )
    if isinstance(guidance, (int, float)):
        guidance = Guidance(float(guidance))
    halfway = [t + (t_next - t) / 2 for t, t_next in itertools.pairwise(grid)] if method in HALFWAY else []
    inside = _inside(grid, method)
    field = VelocityField(flow, x, cond, guidance, [*grid, *halfway], checkpoint, inside)
    start = None if generator is None else generator.get_state()
    states: list[Any] = []

    def record(step: int, t: float, state: Any, velocity: Any) -> None:
        states.append(state)
        if observe is not None:
            observe(step, t, state, velocity)

    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        end = solve(field, x, grid, flow.space, record if trajectory else observe, **options)
        end, auxiliary = end if isinstance(end, Carried) else (end, None)
        if check_finite and not _finite(end):
            if "generator" in options and start is not None:
                options["generator"] = torch.Generator(options["generator"].device).set_state(start)
            first = _first_nonfinite(VelocityField(flow, x, cond, guidance, inside=inside), x, grid, method, options)
            raise NonFiniteError(
                f"sampling gave NaN or infinite values at step {first} of {len(grid) - 1} ({method}); "
                "check the weights and the conditions"
            )
    taken = torch.tensor(grid, dtype=torch.float64)
    return Solution(end, field.evaluations, taken, [*states, end] if trajectory else None, auxiliary)


def sample(
    flow: Flow,
    shape: Shape,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    method: str = "euler",
    shift: float = 1.0,
    cond: Cond | None = None,
    guidance: Guidance | float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_nfe: int | None = None,
    diffusion: Amount | None = None,
    last_step: str | None = None,
    blocks: Blocks | None = None,
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
        rtol=rtol,
        atol=atol,
        max_nfe=max_nfe,
        diffusion=diffusion,
        last_step=last_step,
        blocks=blocks,
    )
    return solution.x


def invert(
    flow: Flow,
    x1: State,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    method: str = "fireflow",
    shift: float = 1.0,
    cond: Cond | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_nfe: int | None = None,
) -> Any:
    """Carry data (B, ...) back to its source along the same flow, without guidance.

    `steps` gives the reversed sampling grid; `times`, when given, must decrease. On a space where states cannot be added,
    "midpoint" is a method to use. Errors as in `integrate`, and:

    Raises:
        ConfigError: the method draws noise, so that nothing would come back.
    """
    if method in STOCHASTIC:
        allowed = ", ".join(sorted(set(SOLVERS) - STOCHASTIC))
        raise ConfigError(f"inversion got the stochastic method {method!r}; allowed: {allowed}")
    if times is None and (steps is not None or method in ADAPTIVE):
        times, steps = torch.tensor(_grid(steps, None, shift, method)[::-1], dtype=torch.float64), None
    if times is not None and times.ndim == 1 and times.numel() > 1 and bool(times[0] < times[-1]):
        raise ConfigError(
            f"inversion got times from {float(times[0]):g} to {float(times[-1]):g}; they must decrease from 1 towards 0"
        )
    return integrate(
        flow, x1, steps=steps, times=times, method=method, cond=cond, rtol=rtol, atol=atol, max_nfe=max_nfe
    ).x


def _grid(steps: int | None, times: Tensor | None, shift: float, method: str) -> list[float]:
    """The grid to walk on, from whichever of the two was given."""
    if method in ADAPTIVE:
        if steps is not None:
            raise ConfigError(f"method {method!r} got steps {steps} but chooses its own; give rtol and atol instead")
        return [0.0, 1.0] if times is None else check_grid(times)
    if (steps is None) == (times is None):
        seen = "both" if steps is not None else "neither"
        raise ConfigError(f"integrate got {seen} of steps and times; give exactly one of them")
    # Made of plain numbers, a grid needs no tensor to be read back, at which torch.compile would cut the solve in two.
    return grid_points(steps, shift) if times is None else check_grid(times)  # type: ignore[arg-type]  # steps is there


def _inside(grid: list[float], method: str) -> tuple[float, float]:
    """Where the network is asked instead of at an end of the grid where its prediction does not tell the velocity.

    Half a step inside: nearer, its error there would count many times; and the velocity at the wrong time costs no more than
    Euler's step does, once.
    """
    if method in ADAPTIVE:
        return MARGIN, 1 - MARGIN
    times = sorted(grid)
    return max(MARGIN, (times[0] + times[1]) / 2), min(1 - MARGIN, (times[-1] + times[-2]) / 2)


def _finite(state: State) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in parts(state))


def _first_nonfinite(field: VelocityField, x: State, grid: list[float], method: str, options: dict[str, Any]) -> int:
    """Solve once more with a look at every state: paid only by runs that have failed already."""
    bad: list[int] = []

    def look(step: int, t: float, state: Any, velocity: Any) -> None:
        if not bad and not _finite(state):
            bad.append(max(step, 1))  # the step before this one made it; a bad start shows in the first
        elif not bad and not _finite(velocity):
            bad.append(step + 1)

    solver(method)(field, x, grid, field.flow.space, look, **options)
    return bad[0] if bad else len(grid) - 1
