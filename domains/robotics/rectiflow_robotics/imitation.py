"""Self-imitation: a policy is drawn towards what it did in its own episodes that succeeded (arXiv 1806.05635)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_robotics.chain import NoisyChain
from rectiflow_robotics.replay import ReplayBuffer


class Achieved(NamedTuple):
    """Chunks (n, Ta, Da) of episodes that succeeded, as the noisy policy drew them, and the observations (n, …) they answered."""

    observations: Tensor
    chunks: Tensor


class Imitation:
    """What the policy did in its last episodes that succeeded, and its distance from that.

    A policy gradient uses a rollout once. What led to success can be learnt from for as long as the policy has not left it far
    behind, and a regression on it follows less noise: it needs no comparison with what failed. What is drawn there is the
    deployed policy's chunk, without noise, so that it learns the mean of what succeeded and not the exploration around it.

    Args:
        weight: of the distance in nats, beside the surrogate of an update; above 0.
        capacity: how many chunks are remembered; the oldest give way.

    Raises:
        ConfigError: a number that is not allowed.
    """

    def __init__(self, weight: float, capacity: int) -> None:
        if not weight > 0 or capacity < 1:
            raise ConfigError(
                f"imitation.weight={weight:g}, imitation.capacity={capacity}: the first must be at least 0, the second at "
                "least 1"
            )
        self.weight = weight
        self.memory = ReplayBuffer(Achieved, capacity)

    def remember(self, observations: Tensor, chunks: Tensor, succeeded: Tensor) -> None:
        """Take in those chunks (M, Ta, Da) of a rollout whose episodes `succeeded` (M,)."""
        self.memory.add(Achieved(observations[succeeded], chunks[succeeded]))

    def term(self, chain: NoisyChain, count: int, generator: torch.Generator) -> Tensor | None:
        """What is added to the loss of an update, of `count` chunks drawn from the memory; None before the first success."""
        if not len(self.memory):
            return None
        return self.weight * distance(chain, self.memory.draw(count, generator), generator)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.memory.load_state_dict(state)


def distance(chain: NoisyChain, achieved: Achieved, generator: torch.Generator) -> Tensor:
    """Mean of |a - act(x0, o)|^2 / (2 sigma^2) in nats: act are the policy's K steps without noise, from x0 drawn anew.

    sigma^2 is the sum of the steps' variances, a scale that does not learn. The distance is least where every x0 leads to the
    mean of what succeeded: exploration is averaged out, and so is what the policy still makes of x0.
    """
    x = chain.flow.sample_source(achieved.chunks.shape, generator=generator, dtype=achieved.chunks.dtype)
    variance = torch.zeros_like(x)
    for k in range(chain.steps):
        x, std = chain.step(k, x, achieved.observations)
        variance = variance + std.detach().square()
    nats: Tensor = 0.5 * ((achieved.chunks - x).square() / variance).flatten(1).sum(-1)
    return nats.mean()
