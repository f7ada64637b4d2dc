"""Rectification piece by piece: a student that is straight between the times of a grid, which is easier than from end to end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Batch, State, batch_size, device_of, map_state, time_dtype
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.distances import Distance, Squared, difference
from rectiflow.rectify.method import ALONE, Method, Support, columns
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import solver
from rectiflow.spaces.space import Space
from rectiflow.times import check_grid


@dataclass(frozen=True)
class Phased(Method):
    """On each piece [r, q] of a grid the student learns the first-order path between x_r and where the teacher carries it.

    That path is a x1_hat + s x0_hat with constant ends, which on the linear path is the straight segment. States x_r lie on
    the teacher's own path between data and fresh noise, so the student needs no stored pairs. With a grid of `optimal_times`
    this is BOSS's fine-tuning (arXiv 2312.16414), on a diffusion path phased Rectified Diffusion (arXiv 2410.07303), and
    with an even grid PeRFlow (arXiv 2405.07510). One piece a batch is drawn.

    Args:
        times: of the grid, from 0 to 1.
        solver_steps: of the teacher within a piece.
        solver: the teacher's solver.
        guidance: of the teacher, which the student then has without.
        distance: of prediction and target.

    Raises:
        ConfigError: a grid that does not increase from 0 to 1, an unknown solver or fewer than one step.
    """

    times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    solver_steps: int = 4
    solver: str = "midpoint"
    guidance: float = 1.0
    distance: Distance = field(default_factory=Squared)

    def __post_init__(self) -> None:
        grid = check_grid(torch.tensor(list(self.times)))
        if grid[0] != 0 or grid[-1] != 1:
            raise ConfigError(f"times go from {grid[0]:g} to {grid[-1]:g}; pieces cover 0 to 1")
        solver(self.solver)
        if self.solver_steps < 1:
            raise ConfigError(f"solver_steps is {self.solver_steps}; it must be at least 1")

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of data, with a teacher in `support`."""
        teacher = support.require_teacher(self)
        pieces = list(itertools.pairwise(self.times))
        begin, end = pieces[int(torch.randint(len(pieces), (), generator=generator, device=device_of(batch.x1)))]
        u = torch.rand(batch_size(batch.x1), generator=generator, device=device_of(batch.x1))
        draw = flow.draw(batch.x1, batch.cond, mask=batch.mask, times=torch.full_like(u, begin), generator=generator)
        reached = integrate(
            teacher.masked(draw.mask),
            draw.xt,
            times=torch.linspace(begin, end, self.solver_steps + 1, dtype=torch.float64),
            method=self.solver,
            cond=draw.cond,
            guidance=Guidance(self.guidance),
            check_finite=False,
        ).x
        t = begin + (end - begin) * u.to(time_dtype(batch.x1))
        masked = flow.masked(draw.mask)
        xt, velocity = first_order_path(masked.space, flow.interpolant, Piece(draw.xt, begin, reached, end), t)
        target = masked.convert(velocity, "velocity", flow.predicts, xt, t, draw.cond)
        draw = draw._replace(t=t, xt=xt, target=target)
        prediction = flow.predict(draw, generator)
        error = self.distance(difference(flow, prediction, target, draw, flow.predicts), draw.mask).mean()
        terms = {"matching": error, **extra(flow, prediction, draw, batch)}
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()} if len(terms) > 1 else {}


class Piece(NamedTuple):
    """States (B, ...) at the two ends of a piece of a path, and the times there."""

    start: State
    begin: float
    reached: State
    end: float


def first_order_path(space: Space, path: Interpolant, piece: Piece, t: Tensor) -> tuple[Any, Any]:
    """State and velocity at times t (B,) on a x1_hat + s x0_hat, the ends being such that it passes through the piece's.

    On a convex path (a + s = 1) it is the geodesic between the two states, on any space.

    Raises:
        ConfigError: another path on a curved space.
    """
    c = path.coefficients(t)
    ends = torch.tensor([piece.begin, piece.end], dtype=torch.float64)
    a, s = (value.tolist() for value in path.coefficients(ends)[:2])
    if path.convex:
        reach = a[1] - a[0]
        state, velocity = space.path(piece.start, piece.reached, (c.a - a[0]) / reach, Linear())
        return state, map_state(lambda part: columns(c.da / reach, part) * part, velocity)
    if not space.linear:
        raise ConfigError(f"{path!r} is no geodesic on {space!r}; allowed there: linear and polynomial paths")
    determinant = s[0] * a[1] - s[1] * a[0]
    data = space.combine((piece.reached, piece.start), (s[0] / determinant, -s[1] / determinant))
    noise = space.combine((piece.start, piece.reached), (a[1] / determinant, -a[0] / determinant))
    return space.path(noise, data, t, path)
