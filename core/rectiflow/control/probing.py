"""What inference-time search sees of a flow: velocity, score and data estimate of any rows at a time, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, map_state
from rectiflow.conditions import take
from rectiflow.control.guidance import Guidance
from rectiflow.control.walking import guidance_of
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.solvers.diffusion import Amount, amounts
from rectiflow.solvers.field import VelocityField
from rectiflow.solvers.noise import normal_like

Reward = Callable[..., Tensor]
"""`reward(x, **cond)`: (B,) of states x (B, ...), data or estimates of it, and their conditions; higher is better."""


class Look(NamedTuple):
    """What one evaluation of the network tells at a state."""

    velocity: Any
    score: Any
    data: Any

    def rows(self, index: Tensor) -> Look:
        """Some rows of it."""
        return Look(*(map_state(lambda part: part[index], state) for state in self))


class Probe:
    """A stochastic sampler in pieces: look at states, and step on from a look.

    A self-conditioned model is shown no earlier estimate: particles change places between two steps.

    Args:
        flow: on a linear space, with a score.
        cond: name -> (groups, ...), one row a group.
        guidance: classifier-free guidance.
        diffusion: eps(t), see `solvers.diffusion`.
        grid: times that will be asked for.

    Raises:
        ConfigError: a curved space.
        ConversionError: the flow has no score.
    """

    def __init__(
        self, flow: Flow, cond: Cond | None, guidance: Guidance | float, diffusion: Amount, grid: list[float]
    ) -> None:
        if not flow.space.linear:
            raise ConfigError(
                f"this adds noise to states, which {flow.space!r} does not allow; use best_of or loss guidance"
            )
        flow.require_score()
        self.flow = flow
        self.cond = dict(cond or {})
        self.guidance = guidance_of(guidance)
        self.spent = 0  # network evaluations of single states
        self._eps = dict(zip(grid[:-1], amounts(diffusion, flow.interpolant, grid[:-1]), strict=True))

    @property
    def cost(self) -> int:
        """Network evaluations that one look at one state takes at most."""
        return 1 if self.guidance.scale in (0.0, 1.0) else 2

    def look(self, x: State, t: float, groups: Tensor) -> Look:
        """Velocity, score and data estimate at states x (R, ...) that belong to `groups` (R,)."""
        field = VelocityField(self.flow, x, take(self.cond, groups), self.guidance)
        velocity, score = field.velocity_and_score(x, t)
        self.spent += field.evaluations * len(groups)
        return Look(velocity, score, field.convert(velocity, "velocity", "data", x, t))

    def reward(self, reward: Reward, x: State, groups: Tensor) -> Tensor:
        """Rewards (R,) of states, each under its group's conditions.

        Raises:
            ConfigError: they have another shape.
        """
        value = reward(x, **take(self.cond, groups))
        if value.shape != groups.shape:
            raise ConfigError(f"reward has shape {tuple(value.shape)}; allowed: ({len(groups)},), one number a state")
        return value

    def step(self, x: State, look: Look, t: float, t_next: float, generator: torch.Generator) -> Any:
        """x + h (v + eps score) + sqrt(2 eps h) n, or x + h v where the grid ends on data."""
        h, eps, space = t_next - t, self._eps[t], self.flow.space
        if t_next == 1 or eps == 0:
            return space.step(x, look.velocity, h)
        x = space.advance(x, (look.velocity, look.score), (1.0, eps), h)
        return space.step(x, normal_like(x, space, generator), (2 * eps * h) ** 0.5)
