"""How straight a flow is, and what it costs to move along it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.flow import Flow
from rectiflow.sampling import integrate


def straightness(
    flow: Flow,
    x0: State,
    *,
    steps: int = 100,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    relative: bool = False,
) -> Tensor:
    """S = int E |(Z1 - Z0) - v(Z_t, t)|^2 dt along Euler trajectories; 0 for a straight flow (arXiv 2209.03003, eq. 7).

    Args:
        flow: what to measure; the displacement is taken in the space's coordinates, so the space must be flat.
        x0: (B, ...) sources.
        steps: Euler steps of the trajectories.
        cond: name -> (B, ...).
        guidance: as in `integrate`.
        relative: divide by E |Z1 - Z0|^2, which makes the number comparable between data sets.

    Returns:
        A scalar; squared units of the data, summed over a sample's entries, unless relative.
    """
    flatten = flow.space.flatten
    velocities: list[Tensor] = []

    def look(step: int, t: float, x: Any, v: Any) -> None:
        velocities.append(flatten(v))

    end = integrate(flow, x0, steps=steps, method="euler", cond=cond, guidance=guidance, observe=look).x
    displacement = flatten(end) - flatten(x0)
    deviation = torch.stack([(displacement - v).square().sum(1).mean() for v in velocities]).mean()
    return deviation / displacement.square().sum(1).mean() if relative else deviation


def transport_cost(x0: Tensor, x1: Tensor) -> Tensor:
    """Mean squared distance E |x1 - x0|^2 between paired states (B, ...), summed over a sample's entries."""
    return (x1 - x0).flatten(1).square().sum(1).mean()
