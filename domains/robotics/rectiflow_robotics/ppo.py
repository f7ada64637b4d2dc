"""Proximal policy optimisation of a denoising chain: clipped steps whose size is measured on the true chain (arXiv 1707.06347).

What it guards against: likelihoods that are not the sampler's, steps that leave the trust region (a stop, a way back, and a
learning rate that follows the divergence of the chain's law), advantages that do not vary, minibatches that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow_robotics.advantages import explained_variance, normalised
from rectiflow_robotics.chain import NoisyChain, Path, chain_kl, require_ratio_one
from rectiflow_robotics.critic import Critic
from rectiflow_robotics.imitation import Imitation

LOG_RATIO_LIMIT = 20.0
STOP_FACTOR = 1.5
RATE_FACTOR = 1.5
RATE_RANGE = 30.0
CONSECUTIVE_SKIPS = 10
MEASURED = 640
"""Chunks that tell how far an update went: the divergence of a chunk varies by about its mean, so to some four per cent."""


class Surrogate(NamedTuple):
    """What a policy-gradient step minimises, and the share of ratios outside the clip."""

    loss: Tensor
    clipped: Tensor


Objective = Callable[[Path, Path, Tensor], Surrogate]
"""Of chains as sampled, the same with their present laws, and normalised advantages (B,)."""


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: float | Tensor) -> Surrogate:
    """Mean of max(-A r, -A clip(r, 1 - eps, 1 + eps)) over all ratios; log r is limited to +-20, so that r stays finite."""
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    low, high = 1 - clip, 1 + clip
    bounded = torch.minimum(torch.maximum(ratio, torch.as_tensor(low)), torch.as_tensor(high))
    loss = torch.maximum(-advantages * ratio, -advantages * bounded).mean()
    return Surrogate(loss, (ratio != bounded).float().mean().detach())


class Experience(NamedTuple):
    """A rollout, flat: M chunks of actions with what came of them; `succeeded` says whether a chunk's episode did, in it."""

    observations: Tensor
    path: Path
    values: Tensor
    advantages: Tensor
    returns: Tensor
    succeeded: Tensor


@dataclass(frozen=True)
class PPO:
    """How an update goes.

    Args:
        epochs: passes of the policy over the rollout, at most.
        critic_epochs: passes of the critic, which costs a K-th of the policy.
        minibatch: chunks a step.
        target_kl: nats of the true chain that one update may move the policy; above 1.5 times that the actor stops.
        final_kl: what `target_kl` has fallen to, linearly, at the end of a run: late updates follow noise more than signal.
        adaptive: whether the actor's learning rate follows the divergence, within 30 times its first value either way.
        entropy: weight of the entropy rate; above 0 it pulls sigma to its upper bound.
        anchor: weight of the chain's divergence from the clone's, in nats.
        grad_clip: greatest norm of a gradient.
        advantage_clip: greatest advantage, in standard deviations.

    Raises:
        ConfigError: a number that is not allowed.
    """

    epochs: int = 4
    critic_epochs: int = 4
    minibatch: int = 320
    target_kl: float = 0.3
    final_kl: float = 0.05
    adaptive: bool = True
    entropy: float = 0.0
    anchor: float = 0.0
    grad_clip: float = 1.0
    advantage_clip: float = 2.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.critic_epochs, self.minibatch) < 1:
            raise ConfigError(
                f"ppo.epochs={self.epochs}, ppo.critic_epochs={self.critic_epochs}, ppo.minibatch={self.minibatch}: all must "
                "be integers of at least 1"
            )
        positive = min(self.target_kl, self.final_kl, self.grad_clip, self.advantage_clip)
        if not (positive > 0 and self.anchor >= 0):
            raise ConfigError(
                f"ppo.target_kl={self.target_kl:g}, ppo.final_kl={self.final_kl:g}, ppo.grad_clip={self.grad_clip:g}, "
                f"ppo.advantage_clip={self.advantage_clip:g}, ppo.anchor={self.anchor:g}: "
                "the first four must be above 0, the anchor at least 0"
            )

    def at(self, progress: float) -> PPO:
        """The same at a share of the run in [0, 1], with the divergence that is due then."""
        return replace(self, target_kl=self.target_kl + progress * (self.final_kl - self.target_kl))


@dataclass
class Learner:
    """What learns: the chain (policy and noise) and the critic, each with its optimiser.

    Attributes:
        chain: policy and noise.
        critic: its value.
        actor_optimizer: of policy and noise.
        critic_optimizer: of the critic.
        clone: the chain as it was cloned, for the anchor; it does not learn.
        rate: the actor's learning rate as it was asked for.
        imitation: what it learns from its own episodes that succeeded; None for nothing.
        skips: consecutive minibatches that were not finite.
    """

    chain: NoisyChain
    critic: Critic
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    clone: NoisyChain
    rate: float
    imitation: Imitation | None = None
    skips: int = 0


def update(
    learner: Learner,
    experience: Experience,
    objective: Objective,
    options: PPO,
    generator: torch.Generator,
    *,
    train_actor: bool = True,
) -> dict[str, float]:
    """Improve critic and, unless it is warming up or advantages do not vary, policy; returns figures of the update.

    Raises:
        ChainMismatch: the likelihood is not the sampler's; nothing was changed.
        NonFiniteError: ten minibatches on end were not finite.
    """
    figures: dict[str, list[float]] = {}
    chosen = torch.arange(min(options.minibatch, len(experience.values)))
    with torch.no_grad():
        replayed = learner.chain.replay(experience.path.states[chosen], experience.observations[chosen])
    error = require_ratio_one(experience.path.rows(chosen), replayed)
    advantages = normalised(experience.advantages, options.advantage_clip)
    acting = train_actor and advantages is not None
    before = [parameter.detach().clone() for parameter in _parameters(learner.actor_optimizer)] if acting else []
    if learner.imitation is not None:
        learner.imitation.remember(experience.observations, experience.path.states[:, -1], experience.succeeded)
    steps = 0
    for epoch in range(max(options.epochs, options.critic_epochs)):
        order = torch.randperm(len(experience.values), generator=generator)
        for index in torch.split(order, options.minibatch):
            if acting and advantages is not None and epoch < options.epochs:
                kl = _actor_step(learner, experience, advantages, index, objective, options, generator, figures)
                acting = kl <= STOP_FACTOR * options.target_kl
                steps += acting
            if epoch < options.critic_epochs:
                _critic_step(learner, experience, index, options, figures)
    result = {name: sum(values) / len(values) for name, values in figures.items()}
    result["ratio_error"] = error
    result["actor_steps"] = float(steps)
    result["explained_variance"] = explained_variance(experience.values, experience.returns)
    if before:
        measured = torch.randperm(len(experience.values), generator=generator)[:MEASURED]
        moved = divergence(learner.chain, experience, measured)
        result["kl"] = _retreat(learner, experience, before, moved, measured, options.target_kl)
        if options.adaptive:
            _follow(learner, moved, options.target_kl)
    result["learning_rate"] = learner.actor_optimizer.param_groups[0]["lr"]
    return result


@torch.no_grad()
def divergence(chain: NoisyChain, experience: Experience, index: Tensor) -> float:
    """Mean KL divergence in nats, over some chunks, of the chain's present law from the one that it was sampled with."""
    old = experience.path.rows(index)
    return float(chain_kl(old, chain.replay(old.states, experience.observations[index])).mean())


def _actor_step(
    learner: Learner,
    experience: Experience,
    advantages: Tensor,
    index: Tensor,
    objective: Objective,
    options: PPO,
    generator: torch.Generator,
    figures: dict[str, list[float]],
) -> float:
    """One step; returns the divergence before it, infinite where the trust region was left and no step was made."""
    old, observation = experience.path.rows(index), experience.observations[index]
    new = learner.chain.replay(old.states, observation)
    kl = float(chain_kl(old, new).mean().detach())
    if kl > STOP_FACTOR * options.target_kl:
        return kl
    surrogate = objective(old, new, advantages[index])
    loss = surrogate.loss - options.entropy * new.entropy_rate().mean()
    if options.anchor > 0:
        with torch.no_grad():
            clone = learner.clone.replay(old.states, observation)
        shift = (new.means - clone.means) / new.stds.detach()
        distance = 0.5 * shift.square().flatten(1).sum(-1).mean()
        loss = loss + options.anchor * distance
        _add(figures, anchor=float(distance.detach()))
    term = learner.imitation.term(learner.chain, len(index), generator) if learner.imitation is not None else None
    if term is not None:
        loss = loss + term
        _add(figures, imitation=float(term.detach()))
    norm = _step(learner, loss, learner.actor_optimizer, options.grad_clip)
    _add(figures, policy_loss=float(surrogate.loss.detach()), clip_fraction=float(surrogate.clipped), actor_norm=norm)
    return kl


def _retreat(
    learner: Learner, experience: Experience, before: Sequence[Tensor], moved: float, measured: Tensor, target: float
) -> float:
    """Go part of the way back from an update that left the trust region; returns the divergence that remains.

    A single step may leave it, Adam's first above all. The divergence grows with the square of the way.
    """
    if not moved > STOP_FACTOR * target:
        return moved
    share = (target / moved) ** 0.5
    with torch.no_grad():
        for parameter, old in zip(_parameters(learner.actor_optimizer), before, strict=True):
            parameter.copy_(torch.lerp(old, parameter, share))
    return divergence(learner.chain, experience, measured)


def _critic_step(
    learner: Learner, experience: Experience, index: Tensor, options: PPO, figures: dict[str, list[float]]
) -> None:
    value = learner.critic(experience.observations[index])
    loss = 0.5 * (value - experience.returns[index]).square().mean()
    norm = _step(learner, loss, learner.critic_optimizer, options.grad_clip)
    _add(figures, critic_loss=float(loss.detach()), critic_norm=norm)


def _step(learner: Learner, loss: Tensor, optimizer: torch.optim.Optimizer, grad_clip: float) -> float:
    """A step where loss and gradient are finite, else none; returns the gradient's norm."""
    parameters = _parameters(optimizer)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(parameters, grad_clip))
    if bool(torch.isfinite(loss.detach())) and norm < float("inf"):
        optimizer.step()
        learner.skips = 0
        return norm
    learner.skips += 1
    if learner.skips >= CONSECUTIVE_SKIPS:
        raise NonFiniteError(
            f"{learner.skips} minibatches on end gave a loss or gradient that is not finite (loss {float(loss.detach()):g}); "
            "lower the learning rate, or look at the environment's rewards. The last checkpoint is intact"
        )
    return 0.0


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _follow(learner: Learner, kl: float, target: float) -> None:
    """Move the actor's learning rate by a factor where an update went much further, or much less far, than asked for."""
    for group in learner.actor_optimizer.param_groups:
        rate = group["lr"]
        if kl > STOP_FACTOR * target:
            rate /= RATE_FACTOR
        elif kl < target / STOP_FACTOR:
            rate *= RATE_FACTOR
        group["lr"] = min(max(rate, learner.rate / RATE_RANGE), learner.rate * RATE_RANGE)


def _add(figures: dict[str, list[float]], **values: Any) -> None:
    for name, value in values.items():
        figures.setdefault(name, []).append(float(value))
