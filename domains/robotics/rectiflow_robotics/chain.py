"""A policy's denoising steps as a Markov chain with noise, whose likelihood is exact: what policy gradients need of a flow.

The grid is t_k = k / K, k = 0 … K - 1, and one function gives the law of a step; sampling and likelihood both call it, so they
cannot disagree on a grid. A step of average velocities (a shortcut or MeanFlow student) is told where it ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.errors import ConfigError, RectiflowError
from rectiflow.flow import Flow
from rectiflow_robotics.noise import NoiseNetwork

RATIO_TOLERANCE = 2e-5


class ChainMismatch(RectiflowError):
    """A likelihood that is not the one of the sampler: every gradient from it would be wrong."""


class Path(NamedTuple):
    """Noisy denoisings of action chunks, with the laws of their steps.

    Attributes:
        states: (B, K + 1, actions, components) x_0 … x_K.
        means: (B, K, actions, components) of x_1 … x_K given the state before.
        stds: like `means`.
    """

    states: Tensor
    means: Tensor
    stds: Tensor

    def step_log_probs(self) -> Tensor:
        """log N(x_{k+1}; mean_k, std_k^2), summed over a chunk's components: (B, K)."""
        z = (self.states[:, 1:] - self.means) / self.stds
        return -(0.5 * z.square() + self.stds.log() + 0.5 * math.log(2 * math.pi)).flatten(2).sum(-1)

    def log_prob(self) -> Tensor:
        """Log-density (B,) of the whole chain x_0 … x_K, the source's N(0, I) included (arXiv 2505.22094)."""
        source = -(0.5 * self.states[:, 0].square() + 0.5 * math.log(2 * math.pi)).flatten(1).sum(-1)
        return source + self.step_log_probs().sum(-1)

    def elements(self) -> int:
        """How many numbers a chain's density is of, (K + 1) actions components."""
        return self.states[0].numel()

    def entropy_rate(self) -> Tensor:
        """Entropy (B,) of the chain, per element: 1/2 log(2 pi e) + the mean of log sigma, 0 for x_0."""
        return 0.5 * math.log(2 * math.pi * math.e) + self.stds.log().flatten(1).sum(-1) / self.elements()

    def rows(self, index: Tensor) -> Path:
        """Some of the chains."""
        return Path(self.states[index], self.means[index], self.stds[index])


def chain_kl(old: Path, new: Path) -> Tensor:
    """KL divergence (B,) of the chain's law `new` from `old`, each step's exact, given the states of `old`.

    Its mean over chains drawn from `old` is an unbiased estimate of the divergence of the two laws of x_0 … x_K, in nats and of
    the true chain: no normalisation by its length hides how far an update has gone.
    """
    ratio = old.stds / new.stds
    shift = (old.means - new.means) / new.stds
    return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).flatten(1).sum(-1)


@dataclass(frozen=True)
class NoisyChain:
    """x_{k+1} = x_k + v(x_k, t_k, o) / K + sigma_k z on t_k = k / K (arXiv 2505.22094).

    Args:
        flow: the policy, of states (actions, components) under the condition "observation".
        noise: sigma(k, o).
        steps: K.
        observation: what turns the condition "observation" into the vector that `noise` is given.
        clamp: bound of the absolute value of means; None leaves them free, and only the environment clips actions. A mean
            at the bound has no gradient.
    """

    flow: Flow
    noise: NoiseNetwork
    steps: int
    observation: Any
    clamp: float | None = None
    times: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"a chain of {self.steps} denoising steps is asked for; there must be at least 1")
        if self.clamp is not None and self.clamp <= 0:
            raise ConfigError(f"clamp of the chain's means is {self.clamp:g}; it must be above 0, or None for no clamp")
        object.__setattr__(self, "times", torch.arange(self.steps + 1, dtype=torch.float64) / self.steps)

    def mean(self, k: int, x: Tensor, observation: Tensor) -> Tensor:
        """Where step k leads from x without noise."""
        # expanded, so that a network can see that it is one time for all and embed it once
        t, until = (self.times[place].to(x).expand(len(x)) for place in (k, k + 1))
        if self.flow.average:
            velocity = self.flow.average_velocity(x, t, until, observation=observation)
        else:
            velocity = self.flow.velocity(x, t, observation=observation)
        mean: Tensor = x + velocity * (until - t)[:, None, None]
        return mean if self.clamp is None else mean.clamp(-self.clamp, self.clamp)

    def step(self, k: int, x: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_{k+1} given x_k = x."""
        return self.mean(k, x, observation), self.noise(torch.full((len(x),), k), self.observation(observation))

    @torch.no_grad()
    def sample(self, observation: Tensor, generator: torch.Generator) -> Path:
        """Noisy denoisings, one for each observation (B, ...)."""
        shape = (len(observation), *self.noise.shape)
        x = self.flow.sample_source(shape, generator=generator, dtype=observation.dtype)
        states, means, stds = [x], [], []
        for k in range(self.steps):
            mean, std = self.step(k, x, observation)
            x = mean + std * torch.randn(shape, generator=generator, dtype=x.dtype)
            states.append(x)
            means.append(mean)
            stds.append(std)
        return Path(torch.stack(states, 1), torch.stack(means, 1), torch.stack(stds, 1))

    def replay(self, states: Tensor, observation: Tensor) -> Path:
        """The same states (B, K + 1, ...) with the laws that their steps have now, with gradients."""
        laws = [self.step(k, states[:, k], observation) for k in range(self.steps)]
        means, stds = (torch.stack(parts, 1) for parts in zip(*laws, strict=True))
        return Path(states, means, stds)

    @torch.no_grad()
    def act(self, observation: Tensor, x0: Tensor) -> Tensor:
        """The chunk (B, actions, components) that is reached without noise from x0, as the deployed policy acts."""
        x = x0
        for k in range(self.steps):
            x = self.mean(k, x, observation)
        return x


def require_ratio_one(sampled: Path, replayed: Path, tolerance: float = RATIO_TOLERANCE) -> float:
    """The largest |log ratio| per element of replayed to sampled chains, which must vanish before the first update.

    Raises:
        ChainMismatch: the likelihood is not the sampler's.
    """
    per_element = (replayed.log_prob() - sampled.log_prob()) / sampled.elements()
    largest = float(per_element.detach().abs().max())
    if not largest <= tolerance:
        raise ChainMismatch(
            f"the likelihood of chains just sampled differs from the sampler's by {largest:.2e} an element; allowed: "
            f"{tolerance:.0e}. Sampler and likelihood use different times, weights or a network that is not deterministic "
            "(dropout): use the same for both"
        )
    return largest
