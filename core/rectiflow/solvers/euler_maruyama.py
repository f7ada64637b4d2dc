"""The Euler-Maruyama method for dx = (v + eps score) dt + sqrt(2 eps) dW (arXiv 2303.08797, 2401.08740), weak order 1."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from rectiflow.solvers.diffusion import Amount, amounts
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.noise import check_last_step, drift, normal_like
from rectiflow.spaces.space import Space


def euler_maruyama(
    field: VelocityField,
    x: Any,
    times: list[float],
    space: Space,
    observe: Observer | None = None,
    *,
    generator: torch.Generator,
    diffusion: Amount = "sigma",
    last_step: str = "ode",
) -> Any:
    """x <- x + h (v + eps score) + sqrt(2 eps h) n, with - eps score on decreasing grids; one evaluation a step.

    Args:
        field: the velocity field of a flow that has a score.
        x: state at the first time.
        times: grid.
        space: a linear space.
        observe: sees every step, with the velocity.
        generator: draws n, only in steps with eps > 0.
        diffusion: eps(t), see `diffusion.amounts`.
        last_step: "ode" follows v alone, which keeps the law; "mean" leaves out the noise, which sharpens; "tweedie" jumps to
            E[x1 | x]; "full" is a step like the others.
    """
    check_last_step(last_step, times)
    eps = amounts(diffusion, field.flow.interpolant, times[:-1])
    if any(eps):
        field.flow.require_score()
    final = len(times) - 2
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        amount = 0.0 if i == final and last_step in ("ode", "tweedie") else eps[i]
        v, slope = drift(field, x, t, h, amount, space)
        if observe is not None:
            observe(i, t, x, v)
        if i == final and last_step == "tweedie":
            return field.convert(v, "velocity", "data", x, t)
        x = space.step(x, slope, h)
        if amount > 0 and not (i == final and last_step == "mean"):
            x = space.step(x, normal_like(x, space, generator), (2 * amount * abs(h)) ** 0.5)
    return x
