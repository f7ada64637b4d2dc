"""Samples of p_1(x) exp(-potential(x)) by an ensemble that moves, is weighted and resampled (AFDPS, arXiv 2506.03979)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size, map_state, parts
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.control.loss_guidance import Loss, gradient
from rectiflow.control.probing import Probe
from rectiflow.control.resampling import check_threshold, group_size, resample
from rectiflow.control.walking import check_finite, forward_grid
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.solvers.diffusion import Amount


@dataclass(frozen=True)
class Ensemble:
    """Weighted particles.

    Attributes:
        x: (groups * n, ...) particles.
        log_weights: (groups, n), not normalised.
        log_evidence: (groups,) estimate of log E_p1[exp(-potential)].
        nfe: network evaluations per particle.
        resamplings: (groups,) how often a group was resampled on the way.
    """

    x: Any
    log_weights: Tensor
    log_evidence: Tensor
    nfe: int
    resamplings: Tensor

    def mean(self) -> Any:
        """Weighted mean (groups, ...): the posterior mean, the estimate of least squared error."""
        weights = self.log_weights.softmax(1)

        def average(part: Tensor) -> Tensor:
            grouped = part.reshape(*weights.shape, *part.shape[1:])
            return torch.einsum("gn,gn...->g...", weights.to(part.dtype), grouped)

        return map_state(average, self.x)


def sample_posterior(
    flow: Flow,
    x0: State,
    potential: Loss,
    *,
    generator: torch.Generator,
    particles: int | None = None,
    steps: int | None = None,
    times: Tensor | None = None,
    shift: float = 1.0,
    diffusion: Amount = "sigma",
    onset: float = 1.0,
    threshold: float = 0.5,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Ensemble:
    """Carry an ensemble along Q_t ~ p_t exp(-b(t) mu), mu the potential and b = t^onset, from the source to the posterior.

    dx = (v + eps (score - b grad mu)) dt + sqrt(2 eps) dW,   d log w = -(b v . grad mu + b' mu) dt.

    The published equations pull by 2 eps grad mu, and pay for it with a Laplacian of mu in the weights; a pull by eps, under
    which the noise leaves Q_t as it is, needs none, and its weights vary less. The last step adds no noise. Weights are exact up
    to the step size, so that the ensemble is right however badly it is steered, given particles enough.

    Args:
        flow: on a linear space, with a score; x1 ~ p_1 is the prior.
        x0: (groups * n, ...) sources, group after group; each group is an ensemble of its own.
        potential: mu, state (B, ...) -> (B,), differentiable: `Measurement.potential`, or minus a reward.
        generator: noise and resampling.
        particles: n; all rows by default.
        steps: steps from 0 to 1; give this or `times`. Fewer than eps |A|^2 / noise^2 of them are unstable.
        times: (N + 1,) increasing grid from 0 to 1.
        shift: time shift of the grid made from `steps`.
        diffusion: eps(t), see `solvers.diffusion`.
        onset: above 0; how late the potential sets in.
        threshold: resample a group when its effective size falls below this share of n.
        cond: name -> (groups, ...), one row a group.
        guidance: classifier-free guidance; the prior is then that of no flow.

    Raises:
        ConfigError: a bad grid, onset, threshold or number of particles, or a space that is not linear.
        ConversionError: the flow has no score.
        NonFiniteError: a particle left the finite numbers.
    """
    grid = forward_grid(steps, times, shift)
    if grid[0] != 0 or grid[-1] != 1:
        raise ConfigError(f"posterior sampling got times from {grid[0]:g} to {grid[-1]:g}; allowed: from 0 to 1")
    if not onset > 0:
        raise ConfigError(f"onset is {onset}; allowed: above 0")
    check_threshold(threshold)
    probe = Probe(flow, cond, guidance, diffusion, grid)
    count = group_size(x0, particles)
    space, x = flow.space, x0
    log_weights = parts(x)[0].new_zeros(batch_size(x) // count, count)
    groups = torch.arange(len(log_weights), device=log_weights.device).repeat_interleave(count)
    evidence, resamplings = log_weights[:, 0], torch.zeros(len(log_weights), dtype=torch.long)
    with torch.no_grad():
        for step, (t, t_next) in enumerate(itertools.pairwise(grid)):
            h, b, rise = t_next - t, t**onset, t_next**onset - t**onset
            before = log_weights.logsumexp(1)
            rows, log_weights, poor = resample(log_weights, threshold, generator)
            evidence = evidence + before - log_weights.logsumexp(1)
            resamplings = resamplings + poor.cpu()
            x = map_state(lambda part, rows=rows: part[rows], x)
            slope, value = gradient(potential, space, x)
            look = probe.look(x, t, groups)
            log_weights = log_weights - (h * b * _inner(look.velocity, slope) + rise * value).reshape(log_weights.shape)
            pulled = look._replace(score=space.combine((look.score, slope), (1.0, -b)))
            x = probe.step(x, pulled, t, t_next, generator)
            check_finite(x, step + 1, len(grid) - 1)
    evidence = evidence + log_weights.logsumexp(1) - torch.tensor(float(count)).log()
    return Ensemble(x, log_weights, evidence, probe.spent // len(groups), resamplings)


def _inner(a: State, b: State) -> Tensor:
    """Inner products (B,) of tangents."""
    return torch.stack([(one * other).flatten(1).sum(1) for one, other in zip(parts(a), parts(b), strict=True)]).sum(0)
