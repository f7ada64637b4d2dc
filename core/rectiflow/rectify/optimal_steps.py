"""Where to put few Euler steps: the grid of least error, by dynamic programming on a trained flow (BOSS, arXiv 2312.16414)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Cond, State
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

Cost = Callable[[State, State], Tensor]


class StepCosts(NamedTuple):
    """What one Euler step between any two times of a fine grid costs.

    `times` is the grid (K + 1,), `costs` (K + 1, K + 1): entry (i, j) for the step from time i to time j, infinite for j <= i.
    """

    times: Tensor
    costs: Tensor

    def optimal_times(self, steps: int) -> Tensor:
        """The grid (steps + 1,) from the first time to the last whose steps cost least in sum.

        With V_1(i) = c(i, K) and V_k(i) = min_j c(i, j) + V_(k-1)(j), V_N(0) is the least sum of N costs (eq. 6 of the paper).

        Raises:
            ConfigError: more steps than the fine grid has, or fewer than one.
        """
        fine = len(self.times) - 1
        if not 1 <= steps <= fine:
            raise ConfigError(f"optimal times for {steps} steps of a fine grid of {fine}; allowed: 1 to {fine}")
        value = self.costs[:, fine]
        choices = []
        for _ in range(steps - 1):
            value, following = (self.costs + value).min(1)
            choices.append(following)
        chosen = [0]
        for following in reversed(choices):
            chosen.append(int(following[chosen[-1]]))
        return self.times[[*chosen, fine]]

    def total(self, times: Tensor) -> float:
        """Sum of the costs of the steps of a grid whose times, the first and the last included, are of the fine one.

        Raises:
            ConfigError: a time that is not.
        """
        distance = (times[:, None] - self.times).abs()
        if bool((distance.amin(1) > 1e-9).any()):
            raise ConfigError(f"times {times.tolist()} are not all of the fine grid of {len(self.times) - 1} steps")
        rows = distance.argmin(1)
        return float(self.costs[rows[:-1], rows[1:]].sum())


@torch.no_grad()
def step_costs(
    flow: Flow,
    x0: State,
    *,
    fine: int = 100,
    shift: float = 1.0,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    cost: Cost | None = None,
) -> StepCosts:
    """Costs of all steps between times of a fine Euler trajectory, averaged over a batch.

    The step from time i to time j starts at the trajectory's state x_i with its velocity there and should have ended at x_j:
    c(i, j) = E |x_i + (t_j - t_i) v_i - x_j|^2. On a curved space the step is the exponential and the distance geodesic.

    Args:
        flow: what will be sampled; mask it first (`Flow.masked`) where states have padding.
        x0: (B, ...) sources; a few hundred give grids that hardly move with the draw.
        fine: K, steps of the trajectory; `optimal_times` chooses among its times.
        shift: time shift of the fine grid.
        cond: name -> (B, ...).
        guidance: as in `integrate`; the grid suits this guidance.
        cost: (state that a step reached, state that it should have reached) -> (B,); the squared distance by default.

    Raises:
        ConfigError: fine < 1 or shift <= 0.
        NonFiniteError: the flow gave NaN or infinity.
    """
    space = flow.space
    velocities = []
    solution = integrate(
        flow,
        x0,
        steps=fine,
        shift=shift,
        cond=cond,
        guidance=guidance,
        trajectory=True,
        observe=lambda step, t, x, v: velocities.append(v),
    )
    states, times = solution.trajectory or [], solution.times
    grid = times.tolist()
    costs = torch.full((fine + 1, fine + 1), torch.inf, dtype=torch.float64)
    for i, velocity in enumerate(velocities):
        for j in range(i + 1, fine + 1):
            reached = space.step(states[i], velocity, grid[j] - grid[i])
            error = space.distance(reached, states[j]).square() if cost is None else cost(reached, states[j])
            costs[i, j] = error.double().mean()
    return StepCosts(times, costs)
