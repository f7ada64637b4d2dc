"""Inverse problems: data of a flow that fit a measurement."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.control.loss_guidance import StepSize, sample_with_loss
from rectiflow.control.measurement import Measurement
from rectiflow.control.walking import forward_grid, walk
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Coefficients
from rectiflow.predictions import MARGIN
from rectiflow.sampling import Solution
from rectiflow.solvers.field import VelocityField
from rectiflow.spaces.euclidean import Euclidean


def solve_inverse(
    flow: Flow,
    x0: Tensor,
    measurement: Measurement,
    *,
    method: str = "flow_chef",
    steps: int = 100,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    **options: Any,
) -> Solution:
    """Data that fit a measurement, from sources x0, by any of the methods of this file.

    Args:
        flow: on a flat space.
        x0: (B, ...) sources.
        measurement: what is known of the B samples.
        method: flow_chef | dps | pigdm | pnp_flow.
        steps: network evaluations a sample.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.
        options: further arguments of the method, such as `step_size`.

    Raises:
        ConfigError: an unknown method, or a space that is not flat.
    """
    if method not in METHODS:
        close = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"inverse method {method!r} is unknown; allowed: {', '.join(METHODS)}{hint}")
    return METHODS[method](flow, x0, measurement, steps=steps, cond=cond, guidance=guidance, **options)


def flow_chef(
    flow: Flow,
    x0: Tensor,
    measurement: Measurement,
    *,
    steps: int = 100,
    step_size: StepSize = 0.5,
    corrections: int = 1,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Descend on the misfit of the data estimate, without a gradient through the network (FlowChef, arXiv 2412.00100).

    A noisy measurement is fitted until the misfit is what its noise explains. `step_size` multiplies A^T (A x1 - y): up to 1
    where rows of A have unit norm, as for inpainting. Other arguments and errors as in `sample_with_loss`.
    """
    return sample_with_loss(
        flow,
        x0,
        measurement.excess,
        steps=steps,
        step_size=step_size,
        corrections=corrections,
        cond=cond,
        guidance=guidance,
    )


def dps(
    flow: Flow,
    x0: Tensor,
    measurement: Measurement,
    *,
    steps: int = 100,
    step_size: StepSize = 0.5,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Descend on the misfit of the data estimate with the network in the gradient (DPS, arXiv 2209.14687); as `flow_chef`."""
    return sample_with_loss(
        flow,
        x0,
        measurement.excess,
        steps=steps,
        step_size=step_size,
        through_network=True,
        cond=cond,
        guidance=guidance,
    )


def pigdm(
    flow: Flow,
    x0: Tensor,
    measurement: Measurement,
    *,
    steps: int = 100,
    variance: float = 1.0,
    through_network: bool = True,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Follow v + (s D / a) grad log p(y | x_t), with x1 given x_t taken as normal around the data estimate (OT-ODE).

    With r^2 = l s^2 / (a^2 l + s^2) the spread of x1 given x_t for data of variance l, and w = (r^2 A A^T + noise^2 I)^-1
    (y - A x1), the gradient is J^T A^T w, J = d x1 / d x (arXiv 2310.04432; PiGDM for diffusion). Exact for normal data of that
    variance. Without `through_network`, J is that of such data, a r^2 / s^2. No step size to tune.

    Args:
        flow: with a source N(0, I), independent of data.
        x0: (B, ...) sources.
        measurement: with a linear operator.
        steps: Euler steps.
        variance: l, of the data an entry.
        through_network: take J from the network, by one backward pass a step.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.

    Raises:
        ConfigError: variance is not positive, or the source is not N(0, I).
        ConvergenceError: an exact measurement that repeats itself.
    """
    if not variance > 0:
        raise ConfigError(f"pigdm got variance {variance}; allowed: above 0")
    _require_normal_source("pigdm", flow)

    def move(field: VelocityField, x: Tensor, t: float, t_next: float) -> Tensor:
        c = _coefficients(flow, t)
        a, s, determinant = float(c.a), float(c.s), float(c.determinant)
        spread = variance * s**2 / (a**2 * variance + s**2)
        # Where a vanishes so does J, whatever the data: its ratio to a is that of the approximation, Cov[x1] / s^2.
        differentiate = through_network and t >= MARGIN
        with torch.set_grad_enabled(differentiate):
            point = x.detach().requires_grad_(differentiate)
            v = field(point, t)
            estimate = field.convert(v, "velocity", "data", point, t)
            image = measurement.operator(estimate)
        w = measurement.whiten(measurement.y - image.detach(), spread, x)
        if differentiate:
            (ascent,) = torch.autograd.grad(image, point, w)
            push = s * determinant / a * ascent
        else:
            push = determinant * spread / s * measurement.adjoint(w, x)
        return torch.add(x, v.detach() + push, alpha=t_next - t)

    return walk(flow, x0, forward_grid(steps, None), move, cond, guidance)


def pnp_flow(
    flow: Flow,
    x0: Tensor,
    measurement: Measurement,
    *,
    generator: torch.Generator,
    steps: int = 100,
    step_size: float = 1.0,
    decay: float = 0.5,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Solution:
    """Descend on the misfit, put the result back on the path with new noise, and let the flow denoise it (arXiv 2410.02423).

    At time t the estimate becomes E[x1 | x_t = a z + s n], z = x1 - step_size (1 - t)^decay A^T (A x1 - y), n new noise; the
    first n is x0. No gradient of the network.

    Raises:
        ConfigError: the source is not N(0, I).
    """
    _require_normal_source("pnp_flow", flow)

    def move(field: VelocityField, x: Tensor, t: float, t_next: float) -> Tensor:
        estimate: Tensor = field.data(x, t)
        if t_next == grid[-1]:
            return estimate
        residual = measurement.operator(estimate) - measurement.y
        z = estimate - step_size * (1 - t_next) ** decay * measurement.adjoint(residual, x)
        c = _coefficients(flow, t_next)
        noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
        return torch.add(float(c.a) * z, noise, alpha=float(c.s))

    grid = forward_grid(steps, None)
    return walk(flow, x0, grid, move, cond, guidance)


def _require_normal_source(method: str, flow: Flow) -> None:
    if not isinstance(flow.space, Euclidean) or flow.source is not None or not flow.independent:
        raise ConfigError(
            f"{method} needs a flow from N(0, I), independent of data, on flat space; this one has space {flow.space!r}, "
            f"source {flow.source!r}, independent {flow.independent}: use flow_chef"
        )


def _coefficients(flow: Flow, t: float) -> Coefficients:
    return flow.interpolant.coefficients(torch.tensor(t, dtype=torch.float64))


METHODS: dict[str, Callable[..., Solution]] = {
    "flow_chef": flow_chef,
    "dps": dps,
    "pigdm": pigdm,
    "pnp_flow": pnp_flow,
}
