"""Self-imitation: a one-step policy is drawn towards what it did in its own episodes that succeeded (arXiv 1806.05635)."""

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
    behind, and a regression on it follows less noise: it needs no comparison with what failed. Several steps of denoising would
    learn the exploration noise together with what it found; one step learns the mean.

    Args:
        weight: of the distance in nats, beside the surrogate of an update; above 0.
        capacity: how many chunks are remembered; the oldest give way.
        steps: denoising steps of the policy.

    Raises:
        ConfigError: a number that is not allowed, or several steps.
    """

    def __init__(self, weight: float, capacity: int, steps: int) -> None:
        if not weight > 0 or capacity < 1:
            raise ConfigError(
                f"imitation.weight={weight:g}, imitation.capacity={capacity}: the first must be at least 0, the second at "
                "least 1"
            )
        if steps > 1:
            raise ConfigError(
                f"imitation.weight={weight:g} with k={steps}: several steps would learn the exploration noise as well; "
                "use k=1 or imitation.weight=0"
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
    """Mean of |a - mean(x0, o)|^2 / (2 sigma^2) in nats, with x0 drawn anew.

    It is least where the step leads from every x0 to the mean of what succeeded: exploration is averaged out, and so is what the
    policy still makes of x0. sigma is a scale here, it does not learn.
    """
    x0 = chain.flow.sample_source(achieved.chunks.shape, generator=generator, dtype=achieved.chunks.dtype)
    mean, std = chain.step(0, x0, achieved.observations)
    return 0.5 * ((achieved.chunks - mean) / std.detach()).square().flatten(1).sum(-1).mean()
