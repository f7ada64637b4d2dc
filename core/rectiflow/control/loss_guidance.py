"""Sampling that lowers a loss of the data estimate on the way, on any space, with or without a gradient through the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, map_state, parts
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.control.walking import Move, forward_grid, walk
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import Solution
from rectiflow.solvers.field import VelocityField
from rectiflow.spaces.space import Space

Loss = Callable[[Any], Tensor]
"""State (B, ...) -> (B,), differentiable, each sample's from that sample alone."""
StepSize = float | Callable[[float], float]


def sample_with_loss(
    flow: Flow,
    x: State,
    loss: Loss,
    *,
    step_size: StepSize,
    steps: int | None = None,
    times: Tensor | None = None,
    shift: float = 1.0,
    corrections: int = 1,
    through_network: bool = False,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Euler steps, all but the last after descents x <- exp_x(-step_size grad loss(x1)) on the data estimate x1 at x.

    By default the velocity is held fixed in the gradient, which is then that of the loss at x1, and the network is never in a
    graph: FlowChef's gradient skipping (arXiv 2412.00100). On curved spaces the gradient at x1 is carried to x in parallel.
    With `through_network` it is the gradient with respect to x, network included, as in DPS (arXiv 2209.14687): closer to the
    posterior's score, for a backward pass a step and the memory of one.

    Args:
        flow: what to follow, of any space.
        x: (B, ...) state at the first time: of the source for 0.
        loss: of a data estimate; shape as x, dicts for product spaces.
        step_size: of the descent, a number or a function of t; for a loss of |x1 - y|^2 / 2, 1 moves the estimate all the way.
        steps: Euler steps from 0 to 1; give this or `times`.
        times: (N + 1,) increasing grid.
        shift: time shift of the grid made from `steps`.
        corrections: descents before each step, from one evaluation of the network.
        through_network: differentiate through the network; then there is one descent a step.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.

    Raises:
        ConfigError: a bad grid, corrections < 1, or several corrections through the network.
        NonFiniteError: the state left the finite numbers.
    """
    if corrections < 1 or (through_network and corrections > 1):
        allowed = "1 through the network" if through_network else "an integer of at least 1"
        raise ConfigError(f"corrections is {corrections}; allowed: {allowed}")
    grid = forward_grid(steps, times, shift)
    size = step_size if callable(step_size) else lambda t: step_size
    move = _through(loss, size, grid[-1]) if through_network else _skipping(loss, size, grid[-1], corrections)
    return walk(flow, x, grid, move, cond, guidance)


def gradient(loss: Loss, space: Space, x: State) -> tuple[Any, Tensor]:
    """Tangent at x of steepest ascent of a loss, in the space's own coordinates of tangents, and the loss (B,)."""
    with torch.enable_grad():
        nothing = map_state(lambda part: torch.zeros_like(part).requires_grad_(), space.log(x, x))
        value = loss(space.exp(x, nothing))
        slopes = torch.autograd.grad(value.sum(), parts(nothing), allow_unused=True)
    if isinstance(nothing, dict):
        by_name = dict(zip(sorted(nothing), slopes, strict=True))
        ascent: Any = {name: _or_zero(by_name[name], part) for name, part in nothing.items()}
    else:
        ascent = _or_zero(slopes[0], nothing)
    return space.tangent(x, ascent), value.detach()


def _or_zero(slope: Tensor | None, like: Tensor) -> Tensor:
    """What a loss does not look at has no gradient."""
    return torch.zeros_like(like) if slope is None else slope


def _skipping(loss: Loss, size: Callable[[float], float], end: float, corrections: int) -> Move:
    def move(field: VelocityField, x: Any, t: float, t_next: float) -> Any:
        space = field.flow.space
        v = field(x, t)
        for _ in range(0 if t_next == end else corrections):
            estimate = field.convert(v, "velocity", "data", x, t)
            ascent = space.transport(estimate, x, gradient(loss, space, estimate)[0])
            corrected = space.step(x, ascent, -size(t))
            v, x = space.transport(x, corrected, v), corrected
        return space.step(x, v, t_next - t)

    return move


def _through(loss: Loss, size: Callable[[float], float], end: float) -> Move:
    def move(field: VelocityField, x: Any, t: float, t_next: float) -> Any:
        space = field.flow.space
        if t_next == end:
            return space.step(x, field(x, t), t_next - t)
        seen: list[Any] = []

        def estimated(point: Any) -> Tensor:
            seen.append(field(point, t))
            return loss(field.convert(seen[0], "velocity", "data", point, t))

        ascent, _ = gradient(estimated, space, x)
        corrected = space.step(x, ascent, -size(t))
        v = space.transport(x, corrected, map_state(torch.detach, seen[0]))
        return space.step(corrected, v, t_next - t)

    return move
