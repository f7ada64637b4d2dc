"""FlowTurbo (arXiv 2409.18128): a few evaluations of the flow, and a small network that corrects the velocity in between.

Order 2 with an exact refiner. Evaluations of the flow are counted, the refiner's not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rectiflow.errors import ConfigError
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.fireflow import fireflow_step
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class Blocks:
    """How many steps of which kind, in this order.

    Attributes:
        heun: two evaluations of the flow each.
        pseudo: pseudo-corrector steps, one evaluation each (and one more for the first, if no step went before).
        refined: Heun steps whose velocities are the last one, corrected by the refiner twice; no evaluation of the flow
            (and one for the first, if no step went before).

    Raises:
        ConfigError: a negative count, or no steps at all.
    """

    heun: int = 1
    pseudo: int = 5
    refined: int = 3

    def __post_init__(self) -> None:
        if min(self.heun, self.pseudo, self.refined) < 0 or self.steps < 1:
            raise ConfigError(f"FlowTurbo got {self}; counts must be at least 0 and their sum at least 1")

    @classmethod
    def of(cls, steps: int) -> Blocks:
        """The usual shares: one Heun step, the last third refined, pseudo-corrector steps between."""
        refined = steps // 3
        return cls(1, steps - 1 - refined, refined)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.heun + self.pseudo + self.refined

    @property
    def nfe(self) -> int:
        """Evaluations of the flow that a solve without guidance takes; the refiner's are not among them."""
        return 2 * self.heun + self.pseudo + (self.heun == 0)


def flow_turbo(
    field: VelocityField,
    x: Any,
    times: list[float],
    space: Space,
    observe: Observer | None = None,
    *,
    blocks: Blocks | None = None,
) -> Any:
    """Heun steps, then pseudo-corrector steps, then refined ones; on a flow without a refiner the last are Heun's too.

    A step at whose end there is no velocity is one of FireFlow.

    Raises:
        ConfigError: blocks of another number of steps than the grid's.
    """
    steps = len(times) - 1
    blocks = blocks or Blocks.of(steps)
    if blocks.steps != steps:
        raise ConfigError(
            f"solver 'flow_turbo' got {blocks} for a grid of {steps} steps; their sum must be that number"
        )
    velocity = None
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        refining = i >= blocks.heun + blocks.pseudo
        start = velocity
        if velocity is None or i < blocks.heun:
            start = field(x, t)
        elif refining:
            start = field.refined(x, t, velocity)
        if observe is not None:
            observe(i, t, x, start)
        if field.untold(t_next) and not (refining and field.flow.refines):
            x, velocity = fireflow_step(field, x, start, t, t_next - t, space)
        else:
            x, velocity = _trapezoid(field.refined if refining else field, x, start, t, t_next, space, refining)
    return x


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
