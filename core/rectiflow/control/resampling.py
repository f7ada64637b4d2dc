"""Weights of particles, and drawing particles by them."""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow.batch import State, batch_size
from rectiflow.errors import ConfigError


def effective_size(log_weights: Tensor) -> Tensor:
    """Effective sample size 1 / sum w^2 of normalised weights (..., n): n for equal ones, 1 for a single survivor."""
    return torch.exp(-torch.logsumexp(2 * log_weights.log_softmax(-1), -1))


def systematic(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Which particles (groups, n) each group draws from weights (groups, n), by one uniform number a group.

    Particle i is drawn floor(n w_i) or ceil(n w_i) times, n w_i on average: less noise than independent draws.
    """
    groups, count = log_weights.shape
    offset = torch.rand(groups, 1, generator=generator, device=generator.device, dtype=torch.float64).to(
        log_weights.device
    )
    points = (torch.arange(count, device=log_weights.device) + offset) / count
    heights = log_weights.double().softmax(1).cumsum(1)
    # Rounding may leave the last height just below the last point.
    return torch.searchsorted(heights.contiguous(), points.contiguous(), right=True).clamp(max=count - 1)


def resample(log_weights: Tensor, threshold: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Resample the groups whose effective size is below `threshold` n.

    Returns:
        Rows (groups * n,) of the flat batch to go on with, the log-weights after it (equal, 0, where a group was resampled),
        and which groups were, (groups,) bool.
    """
    groups, count = log_weights.shape
    poor = effective_size(log_weights) < threshold * count
    stay = torch.arange(count, device=log_weights.device).expand(groups, -1)
    chosen = torch.where(poor[:, None], systematic(log_weights, generator), stay) if bool(poor.any()) else stay
    first = count * torch.arange(groups, device=log_weights.device)[:, None]
    return (first + chosen).flatten(), torch.where(poor[:, None], 0.0, log_weights), poor


def group_size(x: State, particles: int | None) -> int:
    """Particles a group: all rows in one group by default.

    Raises:
        ConfigError: the rows do not divide into groups of that size.
    """
    rows = batch_size(x)
    count = rows if particles is None else particles
    if count < 1 or rows % count:
        raise ConfigError(f"{rows} rows do not divide into groups of {count} particles; allowed: a divisor of {rows}")
    return count


def check_threshold(threshold: float) -> None:
    """Refuse a share of the particles that is none.

    Raises:
        ConfigError: outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"resampling threshold is {threshold}; allowed: 0 (never) to 1, as a share of the particles")
