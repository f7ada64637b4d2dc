"""Heun's method for dx = (v + eps score) dt + sqrt(2 eps) dW, weak order 2, since the noise does not depend on the state.

Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, 15.1. Both slopes see the same noise.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from rectiflow.solvers.diffusion import Amount, amounts
from rectiflow.solvers.field import Observer, VelocityField
from rectiflow.solvers.midpoint import midpoint_step
from rectiflow.solvers.noise import check_last_step, drift, normal_like
from rectiflow.spaces.space import Space


def stochastic_heun(
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
    """x <- x + h (f(x, t) + f(x + h f(x, t) + n, t + h)) / 2 + n, f = v + eps score, n of variance 2 eps(t + h/2) h.

    Two evaluations a step. Arguments as in `euler_maruyama`; the last step "ode" is one of Heun's method. A step at whose end
    there is no velocity, or no score where it needs one, is of the midpoint rule without noise and of Euler's method with it.
    """
    check_last_step(last_step, times)
    eps = amounts(diffusion, field.flow.interpolant, times)
    middle = amounts(diffusion, field.flow.interpolant, [(t + t_next) / 2 for t, t_next in itertools.pairwise(times)])
    if any(eps) or any(middle):
        field.flow.require_score()
    final = len(times) - 2
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        still = i == final and last_step in ("ode", "tweedie")
        v, slope = drift(field, x, t, h, 0.0 if still else eps[i], space)
        if observe is not None:
            observe(i, t, x, v)
        if i == final and last_step == "tweedie":
            return field.convert(v, "velocity", "data", x, t)
        noise, spread = None, (2 * middle[i] * abs(h)) ** 0.5
        if spread > 0 and not (i == final and last_step in ("ode", "mean")):
            noise = normal_like(x, space, generator)
        if field.untold(t_next) or (eps[i + 1] > 0 and not still and field.untold(t_next, "score")):
            x = midpoint_step(field, x, v, t, h, space) if still else space.step(x, slope, h)
            x = x if noise is None else space.step(x, noise, spread)
            continue
        end = space.step(x, slope, h)
        end = end if noise is None else space.step(end, noise, spread)
        _, slope_end = drift(field, end, t_next, h, 0.0 if still else eps[i + 1], space)
        x = space.advance(x, (slope, slope_end), (0.5, 0.5), h)
        x = x if noise is None else space.step(x, noise, spread)
    return x
