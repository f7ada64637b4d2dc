"""The density that a flow gives to data: log-probability, samples with theirs, and bits per dimension.

Along a trajectory d log p_t(x_t) / dt = -div v(x_t, t), so that log p_1(x1) = log p_0(x0) - int_0^1 div v dt (arXiv 1806.07366).
State and integral are solved together, on one grid, by one method.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Cond, Shape, State, batch_size, device_of, map_state, time_dtype
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.jacobians import CHUNK, Trace, linearise, trace_estimator
from rectiflow.sampling import integrate
from rectiflow.sources import log_density
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.times import time_grid

METHODS = ("euler", "heun", "midpoint", "rf_solver", "rk4")
_STATE, _CHANGE = "state", "change of log-density"


class Sampled(NamedTuple):
    """Samples x (B, ...) and the log-probabilities (B,) of them, in nats."""

    x: Any
    log_prob: Tensor


def log_prob(
    flow: Flow,
    x1: State,
    *,
    steps: int = 160,
    method: str = "rk4",
    divergence: str = "exact",
    probes: int = 1,
    probe: str = "rademacher",
    chunk: int = CHUNK,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    generator: torch.Generator | None = None,
    differentiable: bool = False,
) -> Tensor:
    """Log-probability (B,) of data x1 (B, ...) in nats, from a solve back to the source.

    Args:
        flow: velocity and source; no sample's velocity may depend on another sample (no batch statistics).
        x1: (B, ...) data of any shape, or a dict for a product space.
        steps: steps of the uniform grid from 1 to 0.
        method: euler | midpoint | rf_solver | heun | rk4.
        divergence: exact (d backward passes an evaluation) | hutchinson | hutch++ (unbiased, `probes` and 3 x `probes` passes).
        probes: probes a sample, drawn once a solve: an estimate is then the integral of a smooth function.
        probe: rademacher | gaussian.
        chunk: backward passes done at once; less memory when smaller, and 1 needs no batching rule of any operation.
        cond: name -> (B, ...).
        guidance: as in `integrate`; the density is that of the guided samples.
        generator: source of the probes.
        differentiable: record the solve, for gradients with respect to parameters and x1; memory grows with the steps.

    Raises:
        ConversionError: the source's density is not known, or the flow is self-conditioned, so that no density exists.
        ConfigError: an unknown method, divergence or probe, or random probes without a generator.
        NonFiniteError: the solve left the finite numbers.
    """
    trace = trace_estimator(divergence, x1, probes=probes, probe=probe, generator=generator)
    _log_source(flow, x1, cond)  # a density that does not exist is refused before the solve, not after it
    grid = time_grid(steps).flip(0)
    x0, change = _solve(flow, x1, grid, method, trace, chunk, cond, guidance, differentiable)
    return _log_source(flow, x0, cond) + change


def sample_with_log_prob(
    flow: Flow,
    shape: Shape,
    *,
    steps: int = 160,
    method: str = "rk4",
    divergence: str = "exact",
    probes: int = 1,
    probe: str = "rademacher",
    chunk: int = CHUNK,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    differentiable: bool = False,
) -> Sampled:
    """Samples of the given shape with their log-probability, found on the way: one solve instead of two.

    Arguments and errors as in `log_prob` and `sample`.
    """
    x0 = flow.sample_source(shape, cond, generator, device=device, dtype=dtype)
    trace = trace_estimator(divergence, x0, probes=probes, probe=probe, generator=generator)
    start = _log_source(flow, x0, cond)
    x1, change = _solve(flow, x0, time_grid(steps), method, trace, chunk, cond, guidance, differentiable)
    return Sampled(x1, start - change)


def dequantise(images: Tensor, width: float, generator: torch.Generator) -> Tensor:
    """Add uniform noise of one quantisation step, centred, so that the images have a density.

    Args:
        images: (B, ...) in the units of the flow, neighbouring levels `width` apart.
        width: 2 / 255 for 8-bit pixels scaled to [-1, 1], 1 / 255 for [0, 1].
        generator: source of the noise.

    Raises:
        ConfigError: width is not positive.
    """
    _check_width(width)
    noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images + width * (noise - 0.5)


def bits_per_dimension(log_prob: Tensor, dimensions: int, width: float) -> Tensor:
    """Bits a dimension (B,) that coding quantised data takes at most: -log2 p(x) / d - log2(width) (arXiv 1511.01844).

    Args:
        log_prob: (B,) log-probability in nats of dequantised data.
        dimensions: entries d of one sample.
        width: distance of neighbouring levels in the units of the density; 1 / 256 adds the customary 8 bits.

    Raises:
        ConfigError: dimensions < 1 or width <= 0.
    """
    _check_width(width)
    if dimensions < 1:
        raise ConfigError(f"dimensions is {dimensions}; allowed: an integer of at least 1")
    return -log_prob / (dimensions * math.log(2)) - math.log2(width)


def _check_width(width: float) -> None:
    if not width > 0:
        raise ConfigError(f"quantisation width is {width}; allowed: a number above 0 (2 / 255 for 8 bits on [-1, 1])")


def _solve(
    flow: Flow,
    x: State,
    grid: Tensor,
    method: str,
    trace: Trace,
    chunk: int,
    cond: Cond | None,
    guidance: Guidance | float,
    differentiable: bool,
) -> tuple[Any, Tensor]:
    """The state at the end of the grid, and the integral of the divergence along the way there."""
    if method not in METHODS:
        raise ConfigError(f"likelihood method is {method!r}; allowed: {', '.join(METHODS)}")
    if flow.self_conditioning:
        raise ConversionError(
            "a self-conditioned flow has no density: its velocity depends on earlier steps; use a flow without it"
        )
    joint = _joint_flow(flow, trace, chunk, differentiable and torch.is_grad_enabled())
    change = torch.zeros(batch_size(x), device=device_of(x), dtype=time_dtype(x))
    start = {**(x if isinstance(x, dict) else {_STATE: x}), _CHANGE: change}
    solution = integrate(
        joint, start, times=grid, method=method, cond=cond, guidance=guidance, differentiable=differentiable
    )
    return _state(solution.x, isinstance(x, dict)), solution.x[_CHANGE]


def _joint_flow(flow: Flow, trace: Trace, chunk: int, differentiable: bool) -> Flow:
    """The flow of the state together with the integral of its divergence, which guidance treats alike: both are linear in v."""
    product = isinstance(flow.space, Product)

    def velocity(joint: dict[str, Tensor], t: Tensor, **cond: Tensor) -> dict[str, Tensor]:
        x = _state(joint, product)

        def tangent(x: Any) -> Any:
            return flow.space.tangent(x, flow.velocity(x, t, **cond))

        at = linearise(tangent, x, differentiable=differentiable, chunk=chunk)
        return {**(at.output if product else {_STATE: at.output}), _CHANGE: trace(at)}

    components: dict[str, Any] = (
        dict(flow.space.components) if isinstance(flow.space, Product) else {_STATE: flow.space}
    )
    components[_CHANGE] = Euclidean()
    return Flow(velocity, space=Product(**components), null=flow.null)


def _state(joint: dict[str, Tensor], product: bool) -> Any:
    return {name: part for name, part in joint.items() if name != _CHANGE} if product else joint[_STATE]


def _log_source(flow: Flow, x: Any, cond: Cond | None) -> Tensor:
    """log p_0(x), (B,), in at least single precision."""
    x = map_state(lambda part: part.to(time_dtype(part)), x)
    return flow.space.log_prior(x) if flow.source is None else log_density(flow.source, x, cond)
