"""FlowTurbo: a few evaluations of the flow, and a small network that corrects the velocity in between (arXiv 2409.18128)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rectiflow.batch import Cond, State, batch_size, device_of, time_dtype
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow, Model
from rectiflow.sampling import Solution
from rectiflow.solvers.field import VelocityField
from rectiflow.spaces.space import Space
from rectiflow.times import time_grid


@dataclass(frozen=True)
class Blocks:
    """How many steps of which kind, in this order, on a uniform grid.

    Attributes:
        heun: two evaluations of the flow each.
        pseudo: pseudo-corrector steps, one evaluation each (and one more for the first, if no step went before).
        refined: Heun steps whose velocities are the last one, corrected by the refiner twice; no evaluation of the flow
            (and one for the first, if no step went before).
    """

    heun: int = 1
    pseudo: int = 5
    refined: int = 3

    def __post_init__(self) -> None:
        if min(self.heun, self.pseudo, self.refined) < 0 or self.steps < 1:
            raise ConfigError(f"FlowTurbo got {self}; counts must be at least 0 and their sum at least 1")

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.heun + self.pseudo + self.refined

    @property
    def nfe(self) -> int:
        """Evaluations of the flow that a solve without guidance takes; the refiner's are not among them."""
        return 2 * self.heun + self.pseudo + (self.heun == 0)


def flow_turbo(
    flow: Flow,
    refiner: Model,
    x: State,
    *,
    blocks: Blocks | None = None,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Carry sources (B, ...) to data by Heun, then pseudo-corrector, then refined steps.

    Args:
        flow: the teacher.
        refiner: callable `refiner(x, t, velocity, **cond)` that returns v(x, t) less the velocity it is given, which is that
            of the place just before.
        x: (B, ...) sources.
        blocks: steps of each kind; (1, 5, 3) by default.
        cond: name -> (B, ...), for both networks.
        guidance: of the flow; the refiner corrects the guided velocity, as it did in training.

    Returns:
        The solution; `nfe` counts evaluations of the flow.
    """
    blocks = blocks or Blocks()
    times = time_grid(blocks.steps)
    grid = times.tolist()
    guided = guidance if isinstance(guidance, Guidance) else Guidance(float(guidance))
    field = VelocityField(flow, x, cond, guided, grid)

    def correct(state: Any, time: float, velocity: Any) -> Any:
        t = torch.full((batch_size(state),), time, device=device_of(state), dtype=time_dtype(state))
        return flow.space.combine((velocity, refiner(state, t, velocity, **(cond or {}))), (1, 1))

    with torch.no_grad():
        velocity = None
        for step, (t, t_next) in enumerate(itertools.pairwise(grid)):
            refining = step >= blocks.heun + blocks.pseudo
            start = velocity
            if velocity is None or step < blocks.heun:
                start = field(x, t)
            elif refining:
                start = correct(x, t, velocity)
            x, velocity = _trapezoid(correct if refining else field, x, start, t, t_next, flow.space, refining)
    return Solution(x, field.evaluations, times)


def _trapezoid(
    field: Callable[..., Any], x: Any, start: Any, t: float, t_next: float, space: Space, refining: bool
) -> tuple[Any, Any]:
    """The step with the mean of the velocities at start and predicted end, and the latter, carried to the new state."""
    h = t_next - t
    predicted = space.step(x, start, h)
    # The refiner starts from the velocity at the place just before, brought to where it is asked.
    end = field(predicted, t_next, space.transport(x, predicted, start)) if refining else field(predicted, t_next)
    reached = space.advance(x, (start, space.pull(x, start, h, end)), (0.5, 0.5), h)
    return reached, space.transport(predicted, reached, end)
