"""Advantages of chunks of actions: generalised advantage estimation with true bootstraps and a discount per chunk."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """Advantages and the critic's targets, both (T, N)."""

    advantages: Tensor
    returns: Tensor


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    discounts: Tensor,
    trace: float,
) -> Advantages:
    """A_t = delta_t + discount_t trace A_{t+1}, delta_t = r_t + discount_t V(s_{t+1}) - V(s_t) (arXiv 1506.02438).

    Args:
        rewards: (T, N) sums over the steps that each chunk executed.
        values: (T, N) V(s_t).
        next_values: (T, N) V of the observation that a chunk ended in; of the final one where an episode ended, never of
            the next episode's first.
        terminated: (T, N) bool; nothing follows, so nothing is bootstrapped. At a time limit it is False.
        done: (T, N) bool; the episode ended for whatever reason, so the trace is cut.
        discounts: (T, N) gamma to the power of the steps executed.
        trace: lambda in [0, 1], per chunk.
    """
    advantages = rewards + discounts * next_values.masked_fill(terminated, 0.0) - values
    kept = (discounts * trace).masked_fill(done, 0.0)
    following = torch.zeros_like(rewards[0])
    for delta, share in zip(reversed(advantages.unbind()), reversed(kept.unbind()), strict=True):
        following = delta.addcmul_(share, following)  # in its place among the advantages
    return Advantages(advantages, advantages + values)


def normalised(advantages: Tensor, limit: float = math.inf) -> Tensor | None:
    """Advantages over the whole rollout to mean 0 and deviation 1, then cut at +-`limit`; None where they do not vary.

    A sparse reward makes a few of them very large, and their gradients drown the rest.
    """
    deviation = float(advantages.std())
    if not deviation > 1e-8:
        return None
    return ((advantages - advantages.mean()) / deviation).clamp(-limit, limit)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(return - V) / Var(return): 1 for a perfect critic, 0 for a constant one; 0 where returns do not vary."""
    variance = float(returns.var())
    return 1.0 - float((returns - values).var()) / variance if variance > 1e-12 else 0.0
