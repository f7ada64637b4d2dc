"""What a flow is like: how straight, how costly, how far from a gradient field, of how many dimensions, in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, map_state, parts, time_dtype
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.jacobians import CHUNK, jacobian, linearise, trace_estimator
from rectiflow.predictions import Prediction, check_prediction
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
        flow: what to measure; on a curved space Z1 - Z0 is the geodesic's tangent at Z0, carried along to Z_t.
        x0: (B, ...) sources.
        steps: Euler steps of the trajectories.
        cond: name -> (B, ...).
        guidance: as in `integrate`.
        relative: divide by E |Z1 - Z0|^2, which makes the number comparable between data sets.

    Returns:
        A scalar; squared units of the data, summed over a sample's entries, unless relative.
    """
    return straightness_and_ends(flow, x0, steps=steps, cond=cond, guidance=guidance, relative=relative)[0]


def straightness_and_ends(
    flow: Flow,
    x0: State,
    *,
    steps: int,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    relative: bool = False,
) -> tuple[Tensor, State]:
    """`straightness`, and where its Euler trajectories end: (B, ...), of x0's form."""
    space = flow.space
    seen: list[tuple[Any, Any]] = []

    def look(step: int, t: float, x: Any, v: Any) -> None:
        seen.append((x, v))

    end = integrate(flow, x0, steps=steps, method="euler", cond=cond, guidance=guidance, observe=look).x
    displacement = space.log(x0, end)
    deviations = [_square(map_state(torch.sub, space.transport(x0, x, displacement), v)) for x, v in seen]
    deviation = torch.stack(deviations).mean()
    return deviation / _square(displacement).mean() if relative else deviation, end


def _square(tangent: State) -> Tensor:
    return torch.stack([part.flatten(1).square().sum(1) for part in parts(tangent)]).sum(0)


def transport_cost(x0: Tensor, x1: Tensor) -> Tensor:
    """Mean squared distance E |x1 - x0|^2 between paired states (B, ...), summed over a sample's entries."""
    return (x1 - x0).flatten(1).square().sum(1).mean()


def conservativity(
    flow: Flow, x: State, t: Tensor, *, of: Prediction = "velocity", cond: Cond | None = None, chunk: int = CHUNK
) -> Tensor:
    """|J - J^T|_F / |J|_F (B,) of a field's Jacobian: 0 for the gradient of a potential, 2 for a pure rotation.

    Marginals do not tell: a rotation inside the level sets of p_t changes no sample's law. The exact score is a gradient,
    and so are then the velocity, data and noise fields of an affine path from an independent standard normal source.

    Args:
        flow: what to look at.
        x: (B, ...) states.
        t: (B,) times.
        of: velocity | data | noise | score, which field of the flow.
        cond: name -> (B, ...).
        chunk: as in `log_prob`; the cost is d backward passes and B d^2 numbers.
    """
    matrix = jacobian(_field(flow, of, t, cond), x, chunk=chunk)
    size = torch.linalg.matrix_norm(matrix)
    index: Tensor = torch.linalg.matrix_norm(matrix - matrix.mT) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return index


class Gauge(NamedTuple):
    """The rotation in a velocity field: its generator A (d, d), antisymmetric, and its share of E |v|^2, 0 to 1."""

    rotation: Tensor
    share: Tensor


def gauge(flow: Flow, x: State, t: Tensor, *, cond: Cond | None = None) -> Gauge:
    """Split off the rotation A S^-1 (x - m) that a velocity makes beside the motion that its covariance needs.

    The regression of v on x_t has the matrix B = Cov(v, x) S^-1. All fields with the same symmetric part of B S change the
    covariance S alike; exactly one of them is a gradient, the symmetric B' with B' S + S B' = B S + S B^T. What is left,
    A = (B - B') S, is antisymmetric, changes no second moment, and is orthogonal to the gradient in energy. For Gaussian
    marginals this is the whole gauge freedom; for others it is its linear part.

    Args:
        flow: what to look at.
        x: (B, ...) samples of x_t, many more than the d entries of each, at one time.
        t: (B,) that time.
        cond: name -> (B, ...).

    Raises:
        ConfigError: the samples do not span their space.
    """
    with torch.no_grad():
        at = linearise(_field(flow, "velocity", t, cond), x)
        states, velocities = at.point.detach(), at.value.detach()
    centred = states - states.mean(0)
    covariance = centred.mT @ centred / len(states)
    cross = velocities.mT @ centred / len(states)
    values, vectors = torch.linalg.eigh(covariance)
    if bool(values[0] <= torch.finfo(values.dtype).eps * len(values) * values[-1]):
        raise ConfigError(
            f"{len(states)} samples span less than their {len(values)} dimensions (smallest variance "
            f"{float(values[0]):.3g}); give more samples, or a time before 1"
        )
    needed = vectors.mT @ (cross + cross.mT) @ vectors / (values[:, None] + values)
    rotation = cross - vectors @ needed @ vectors.mT @ covariance
    energy = (rotation @ torch.linalg.solve(covariance, rotation.mT)).trace()
    return Gauge((rotation - rotation.mT) / 2, energy / velocities.square().sum(1).mean())


def intrinsic_dimension(
    flow: Flow,
    x: State,
    t: Tensor,
    *,
    divergence: str = "exact",
    probes: int = 1,
    probe: str = "rademacher",
    generator: torch.Generator | None = None,
    cond: Cond | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """a(t) trace of the Jacobian of E[x1 | x_t] (B,): tends to k as t -> 1 for data on a k-dimensional set.

    On a plane it is sum a^2 l_i / (a^2 l_i + s^2) over the data's variances l_i. Meaningful for (nearly) conservative
    fields only: see `conservativity`.

    Args:
        flow: what to look at.
        x: (B, ...) states on the path.
        t: (B,) times below 1; 0.99 is a good start for data of unit size.
        divergence, probes, probe, generator, chunk: as in `log_prob`.
        cond: name -> (B, ...).
    """
    trace = trace_estimator(divergence, x, probes=probes, probe=probe, generator=generator)
    with torch.no_grad():
        jacobian_trace = trace(linearise(_field(flow, "data", t, cond), x, chunk=chunk))
    return flow.interpolant.coefficients(t.to(time_dtype(x))).a * jacobian_trace


def formation_times(variances: Tensor, interpolant: Interpolant | None = None, fraction: float = 0.5) -> Tensor:
    """Times at which the directions of Gaussian data are formed: outlines first, details later (arXiv 2303.02490).

    Along the probability flow from N(0, I) the data estimate's part in a direction of variance l is a sqrt(l) / q of its
    final value, q^2 = a^2 l + s^2: it reaches `fraction` f at a / s = f / sqrt(l (1 - f^2)), on the linear path for f = 1/2
    at t = 1 / (1 + sqrt(3 l)).

    Args:
        variances: (K,) eigenvalues of the data's covariance, at least 0.
        interpolant: path; linear by default.
        fraction: between 0 and 1.

    Raises:
        ConfigError: a negative variance, or a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction is {fraction}; allowed: above 0, below 1")
    if bool((variances < 0).any()):
        raise ConfigError(f"variances hold {float(variances.min()):g}; allowed: at least 0")
    return (interpolant or Linear()).time_of(fraction / (variances * (1 - fraction**2)).sqrt())


def _field(flow: Flow, of: Prediction, t: Tensor, cond: Cond | None) -> Callable[[Any], Any]:
    check_prediction(of)
    look = {"velocity": flow.velocity, "data": flow.data, "noise": flow.noise, "score": flow.score}[of]
    return lambda x: look(x, t, **(cond or {}))
