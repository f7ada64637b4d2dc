"""The derivative of an average velocity along a direction in state and both times, in one pass or by a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rectiflow.batch import Cond, map_state
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.nn.modes import evaluating
from rectiflow.nn.plain_operations import PlainOperations
from rectiflow.rectify.method import columns

DERIVATIVES = ("forward", "difference")


@dataclass(frozen=True)
class Direction:
    """A tangent at (x, t, until): dx of the state's shape (None is 0), and the same dt and duntil for every sample."""

    dx: Any
    dt: float
    duntil: float


def along(
    flow: Flow,
    x: Any,
    t: Tensor,
    until: Tensor,
    cond: Cond,
    direction: Direction,
    *,
    derivative: str = "forward",
    step: float = 5e-3,
    differentiable: bool = False,
) -> tuple[Any, Any]:
    """The average velocity u(x, t, until), with its gradient, and its derivative along a direction.

    Args:
        flow: a flow of average velocities.
        x: (B, ...) states.
        t: (B,) times.
        until: (B,) ends of the steps.
        cond: name -> (B, ...).
        direction: what the derivative is along.
        derivative: "forward", forward-mode differentiation in the same pass, attention and layer norm by plain formulas
            (`nn.plain_operations`); or "difference", a central difference of two further passes in evaluation mode.
        step: half the width of the difference, in units of time; less on a side where a time would leave [0, 1].
        differentiable: whether the derivative carries a gradient too.

    Raises:
        ConfigError: an unknown `derivative`, or an operation of the model without a forward rule.
    """
    if derivative == "forward":
        return _forward(flow, x, t, until, cond, direction, differentiable)
    if derivative != "difference":
        raise ConfigError(f"derivative is {derivative!r}; allowed: {', '.join(DERIVATIVES)}")

    def shifted(by: Tensor) -> Any:
        moved = x if direction.dx is None else map_state(lambda part, d: part + columns(by, part) * d, x, direction.dx)
        return flow.average_velocity(moved, t + by * direction.dt, until + by * direction.duntil, **cond)

    with evaluating(flow.model), torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        forth, back = _room(t, until, direction, step), _room(t, until, direction, -step)
        stuck = forth == back  # no side has room: a direction that leaves by one time or by the other
        forth, back = torch.where(stuck, step, forth), torch.where(stuck, -step, back)
        slope = map_state(
            lambda ahead, behind: (ahead - behind) / columns(forth - back, ahead), shifted(forth), shifted(back)
        )
    return flow.average_velocity(x, t, until, **cond), slope


def _room(t: Tensor, until: Tensor, direction: Direction, step: float) -> Tensor:
    """How far (B,) a direction can be followed, at most `step` and with its sign, while both times stay in [0, 1]."""
    reach = torch.full_like(t, abs(step))
    for time, rate in ((t, direction.dt), (until, direction.duntil)):
        speed = rate if step > 0 else -rate
        if speed != 0:
            space = (1 - time if speed > 0 else time) / abs(speed)
            # A time outside [0, 1] has no side to stay on: it is followed as if there were no bounds.
            reach = torch.where(space >= 0, torch.minimum(reach, space), reach)
    return reach if step > 0 else -reach


def _forward(
    flow: Flow, x: Any, t: Tensor, until: Tensor, cond: Cond, direction: Direction, differentiable: bool
) -> tuple[Any, Any]:
    with PlainOperations(), forward_ad.dual_level():
        dual_x = x if direction.dx is None else map_state(_make_dual, x, direction.dx)
        dual_t, dual_until = _dual(t, direction.dt), _dual(until, direction.duntil)
        try:
            output = flow.average_velocity(dual_x, dual_t, dual_until, **cond)
        except NotImplementedError as error:
            operation = " ".join(str(error).split(".")[0].split())
            raise ConfigError(
                f"the model has an operation without a forward-mode derivative ({operation}); use derivative=difference"
            ) from error
        value, slope = map_state(_primal, output), map_state(_tangent, output)
    return value, slope if differentiable else map_state(torch.detach, slope)


def _make_dual(primal: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
    return dual


def _dual(time: Tensor, rate: float) -> Tensor:
    return time if rate == 0 else _make_dual(time, torch.full_like(time, rate))


def _primal(part: Tensor) -> Tensor:
    return forward_ad.unpack_dual(part).primal  # type: ignore[no-untyped-call,no-any-return]


def _tangent(part: Tensor) -> Tensor:
    tangent: Tensor | None = forward_ad.unpack_dual(part).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(part) if tangent is None else tangent
