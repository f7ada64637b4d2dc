"""Inference-time search: spend more evaluations on one sample, and keep what a reward likes best."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size, device_of, map_state, parts
from rectiflow.conditions import take
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.control.probing import Look, Probe, Reward
from rectiflow.control.resampling import group_size
from rectiflow.control.walking import check_finite, forward_grid
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import STOCHASTIC
from rectiflow.solvers.diffusion import Amount


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        x: (B, ...) data.
        reward: (B,) of that data.
        nfe: network evaluations a group, all of its particles together; a guided evaluation counts twice.
        history: (looks, groups) best reward of a data estimate that the group had seen by then; it never falls.
        survivors: (groups,) how many of a group's sources have a descendant in x.
    """

    x: Any
    reward: Tensor
    nfe: int
    history: Tensor
    survivors: Tensor


def best_of(
    flow: Flow,
    x0: State,
    reward: Reward,
    *,
    particles: int | None = None,
    steps: int,
    method: str = "euler",
    shift: float = 1.0,
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
    generator: torch.Generator | None = None,
    diffusion: Amount | None = None,
) -> Found:
    """The best sample of each group, best-of-N; any space, any solver.

    Args:
        flow: what to sample.
        x0: (groups * n, ...) sources, group after group.
        reward: of data.
        particles: n; all rows by default.
        steps: as in `integrate`, like method, shift, guidance, generator and diffusion.
        method: a fixed-step solver's name.
        shift: time shift of the grid.
        cond: name -> (groups, ...), one row a group.
        guidance: classifier-free guidance.
        generator: noise of a stochastic method.
        diffusion: eps(t) of a stochastic method.

    Returns:
        One sample a group, (groups, ...).

    Raises:
        ConfigError: as `integrate`, or rows that do not divide into groups.
    """
    count = group_size(x0, particles)
    groups = _groups(x0, count)
    expanded = take(dict(cond or {}), groups)
    solution = integrate(
        flow,
        x0,
        steps=steps,
        method=method,
        shift=shift,
        cond=expanded,
        guidance=guidance,
        generator=generator if method in STOCHASTIC else None,
        diffusion=diffusion,
    )
    with torch.no_grad():
        rewards = reward(solution.x, **expanded).reshape(-1, count)
    best, which = rewards.max(1)
    rows = torch.arange(len(best), device=which.device) * count + which
    return Found(_rows(solution.x, rows), best, solution.nfe * count, best[None], torch.ones_like(which))


def stepwise_best(
    flow: Flow,
    x0: State,
    reward: Reward,
    *,
    generator: torch.Generator,
    candidates: int,
    steps: int | None = None,
    times: Tensor | None = None,
    shift: float = 1.0,
    diffusion: Amount = "sigma",
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Found:
    """In every step draw some stochastic children of each sample and keep the one with the best data estimate (SVDD, CoDe).

    1 + candidates (N - 1) evaluations a sample: the last step adds no noise, so that it has nothing to choose from.

    Args:
        flow: on a linear space, with a score; `convert_path` to a variance-preserving path spreads the children wider.
        x0: (B, ...) sources, each a group of its own.
        reward: of data estimates.
        generator: noise.
        candidates: children of a sample in a step.
        steps: N steps from 0 to 1; give this or `times`.
        times: (N + 1,) increasing grid.
        shift: time shift of the grid made from `steps`.
        diffusion: eps(t), see `solvers.diffusion`; without noise there is nothing to choose from.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.

    Raises:
        ConfigError: a bad grid, candidates < 1, a curved space, or a reward of a wrong shape.
        ConversionError: the flow has no score.
    """
    if candidates < 1:
        raise ConfigError(f"candidates is {candidates}; allowed: an integer of at least 1")
    grid = forward_grid(steps, times, shift)
    probe = Probe(flow, cond, guidance, diffusion, grid)
    x, groups = x0, _groups(x0, 1)
    fan = groups.repeat_interleave(candidates)
    with torch.no_grad():
        look = probe.look(x, grid[0], groups)
        best = [probe.reward(reward, look.data, groups)]
        for step, (t, t_next) in enumerate(itertools.pairwise(grid[:-1]), 1):
            children = probe.step(_rows(x, fan), look.rows(fan), t, t_next, generator)
            looks = probe.look(children, t_next, fan)
            rewards, which = probe.reward(reward, looks.data, fan).reshape(-1, candidates).max(1)
            rows = groups * candidates + which
            x, look = _rows(children, rows), looks.rows(rows)
            check_finite(x, step, len(grid) - 1)
            best.append(torch.maximum(best[-1], rewards))
        x = probe.step(x, look, grid[-2], grid[-1], generator)
        final = probe.reward(reward, x, groups)
    return Found(x, final, probe.spent // len(groups), torch.stack(best), torch.ones_like(groups))


def rollover(
    flow: Flow,
    x0: State,
    reward: Reward,
    *,
    generator: torch.Generator,
    max_nfe: int,
    particles: int | None = None,
    steps: int | None = None,
    times: Tensor | None = None,
    shift: float = 1.0,
    diffusion: Amount = "sigma",
    cond: Cond | None = None,
    guidance: Guidance | float = NO_GUIDANCE,
) -> Found:
    """Rollover budget forcing (arXiv 2503.19385): a step that finds a better estimate early leaves its budget to the next.

    Of a group's sources the one with the best data estimate is kept. Then each step draws one stochastic child at a time: the
    first whose estimate beats the best so far is taken at once; when the step's quota is used up, its best child is. The last
    step that chooses spends all that is left, so that a group takes `max_nfe` evaluations, no more and no fewer, unless a guided
    evaluation, which counts twice, does not fit into the rest. With a constant reward this is the stochastic sampler, in law.

    Args:
        flow: on a linear space, with a score.
        x0: (groups * n, ...) sources, group after group.
        reward: of data estimates.
        generator: noise.
        max_nfe: evaluations a group, at least n + N - 1 (twice that when guided).
        particles: n; all rows by default.
        steps: N steps, at least 2, from 0 to 1; give this or `times`.
        times: (N + 1,) increasing grid.
        shift: time shift of the grid made from `steps`.
        diffusion: eps(t), see `solvers.diffusion`.
        cond: name -> (groups, ...), one row a group.
        guidance: classifier-free guidance.

    Returns:
        One sample a group, (groups, ...).

    Raises:
        ConfigError: a bad grid, a budget that is too small, a curved space, or a reward of a wrong shape.
        ConversionError: the flow has no score.
    """
    grid = forward_grid(steps, times, shift)
    probe = Probe(flow, cond, guidance, diffusion, grid)
    count = group_size(x0, particles)
    quotas = _quotas(max_nfe, probe.cost, count, len(grid) - 2)
    with torch.no_grad():
        groups = _groups(x0, count)
        look = probe.look(x0, grid[0], groups)
        best, which = probe.reward(reward, look.data, groups).reshape(-1, count).max(1)
        rows = torch.arange(len(best), device=best.device) * count + which
        x, look, history = _rows(x0, rows), look.rows(rows), [best]
        left = torch.zeros_like(which)
        for step, (t, t_next) in enumerate(itertools.pairwise(grid[:-1])):
            left = left + quotas[step]
            goal = best if step < len(quotas) - 1 else torch.full_like(best, torch.inf)
            x, look, rewards, left = _first_better(probe, reward, x, look, goal, left, (t, t_next), generator)
            check_finite(x, step + 1, len(grid) - 1)
            best = torch.maximum(best, rewards)
            history.append(best)
        x = probe.step(x, look, grid[-2], grid[-1], generator)
        final = probe.reward(reward, x, torch.arange(len(best), device=best.device))
    return Found(x, final, probe.spent // len(best), torch.stack(history), torch.ones_like(which))


def _first_better(
    probe: Probe,
    reward: Reward,
    x: State,
    look: Look,
    goal: Tensor,
    quota: Tensor,
    times: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Any, Look, Tensor, Tensor]:
    """The first child of each row whose reward is above its goal, or the best of its quota; and the quota that is left."""
    active = torch.arange(len(goal), device=goal.device)
    kept: list[tuple[Any, Look]] = []
    rewards = torch.full_like(goal, -torch.inf)
    left = quota.clone()
    while len(active):
        child = probe.step(_rows(x, active), look.rows(active), *times, generator)
        seen = probe.look(child, times[1], active)
        value = probe.reward(reward, seen.data, active)
        left[active] -= 1
        if not kept:
            kept.append((child, seen))  # every row is active in the first round
            better = torch.ones_like(active, dtype=torch.bool)
        else:
            better = value > rewards[active]
            _put(kept[0], active[better], (_rows(child, better), seen.rows(better)))
        rewards[active[better]] = value[better]
        active = active[(value <= goal[active]) & (left[active] > 0)]
    return *kept[0], rewards, left


def _put(kept: tuple[Any, Look], rows: Tensor, new: tuple[Any, Look]) -> None:
    """Write the rows of a state and of its look in place."""
    for old, value in zip((kept[0], *kept[1]), (new[0], *new[1]), strict=True):
        for part, source in zip(parts(old), parts(value), strict=True):
            part[rows] = source


def _quotas(max_nfe: int, cost: int, particles: int, choices: int) -> list[int]:
    """Evaluations that each choosing step may make, as even as whole numbers allow, adding up to what the start leaves."""
    if choices < 1:
        raise ConfigError(f"a grid of {choices + 1} steps has none that chooses; allowed: at least 2 steps")
    total = max_nfe // cost - particles
    if total < choices:
        raise ConfigError(
            f"max_nfe is {max_nfe}; {particles} sources and {choices} steps with a choice need at least "
            f"{cost * (particles + choices)}"
        )
    return [total * (i + 1) // choices - total * i // choices for i in range(choices)]


def _groups(x: State, count: int) -> Tensor:
    """Group (B,) of every row."""
    return torch.arange(batch_size(x) // count, device=device_of(x)).repeat_interleave(count)


def _rows(x: State, index: Tensor) -> Any:
    return map_state(lambda part: part[index], x)
