"""Sampling from p_1(x) exp(strength * reward(x)) by resampling on the way, without a gradient (Feynman-Kac steering)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size, device_of, map_state
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.control.probing import Probe, Reward
from rectiflow.control.resampling import check_threshold, group_size, resample
from rectiflow.control.search import Found
from rectiflow.control.walking import check_finite, forward_grid
from rectiflow.flow import Flow
from rectiflow.solvers.diffusion import Amount


def steer(
    flow: Flow,
    x0: State,
    reward: Reward,
    *,
    generator: torch.Generator,
    strength: float = 1.0,
    particles: int | None = None,
    steps: int | None = None,
    times: Tensor | None = None,
    shift: float = 1.0,
    diffusion: Amount = "sigma",
    threshold: float = 0.5,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Found:
    """Sequential Monte Carlo towards p_1 exp(strength * reward) (arXiv 2501.06848): weigh by gains of reward, resample, go on.

    Particles follow the stochastic sampler. Their log-weights grow by strength times the gain in the reward of the data estimate
    since the last look; the gains add up to the reward of the data itself, so that the end is right whatever the estimates were,
    given particles enough. The data that come back are resampled: all weigh the same.

    Args:
        flow: on a linear space, with a score.
        x0: (groups * n, ...) sources, group after group; each group is an ensemble of its own.
        reward: of data and of data estimates.
        generator: noise and resampling.
        strength: of the tilt; 0 is plain sampling.
        particles: n; all rows by default.
        steps: N steps from 0 to 1, N evaluations a particle; give this or `times`.
        times: (N + 1,) increasing grid.
        shift: time shift of the grid made from `steps`.
        diffusion: eps(t), see `solvers.diffusion`; without noise, resampled particles stay copies.
        threshold: resample a group when its effective size falls below this share of n.
        cond: name -> (groups, ...), one row a group.
        guidance: classifier-free guidance.

    Raises:
        ConfigError: a bad grid, threshold or number of particles, a curved space, or a reward of a wrong shape.
        ConversionError: the flow has no score.
    """
    grid = forward_grid(steps, times, shift)
    check_threshold(threshold)
    probe = Probe(flow, cond, guidance, diffusion, grid)
    count = group_size(x0, particles)
    size = batch_size(x0) // count
    groups = torch.arange(size, device=device_of(x0)).repeat_interleave(count)
    x, ancestors = x0, torch.arange(size * count, device=device_of(x0))
    with torch.no_grad():
        look = probe.look(x, grid[0], groups)
        previous = probe.reward(reward, look.data, groups)
        log_weights = strength * previous.reshape(size, count)
        history = [previous.reshape(size, count).amax(1)]
        for step, (t, t_next) in enumerate(itertools.pairwise(grid), 1):
            rows, log_weights, _ = resample(log_weights, threshold, generator)
            x = map_state(lambda part, rows=rows: part[rows], x)
            ancestors, previous = ancestors[rows], previous[rows]
            x = probe.step(x, look.rows(rows), t, t_next, generator)
            check_finite(x, step, len(grid) - 1)
            if step < len(grid) - 1:
                look = probe.look(x, t_next, groups)
            value = probe.reward(reward, look.data if step < len(grid) - 1 else x, groups)
            log_weights = log_weights + strength * (value - previous).reshape(size, count)
            previous = value
            history.append(torch.maximum(history[-1], value.reshape(size, count).amax(1)))
        rows, _, _ = resample(log_weights, 1.0, generator)
        survivors = torch.tensor([len(group.unique()) for group in ancestors[rows].reshape(size, count)])
    x = map_state(lambda part: part[rows], x)
    return Found(x, value[rows], probe.spent // size, torch.stack(history), survivors)
