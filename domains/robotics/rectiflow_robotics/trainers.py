"""What an algorithm is to the fine-tuning loop, and the on-policy ones: ReinFlow and DPPO."""

from __future__ import annotations

import copy
import time
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.trained import Trained
from rectiflow.training.randomness import step_generator, stream_seed
from rectiflow_robotics.chain import NoisyChain, Path
from rectiflow_robotics.critic import Critic
from rectiflow_robotics.domain import Robotics
from rectiflow_robotics.dppo import DPPO
from rectiflow_robotics.experience import Credit, Rollout, collect, value
from rectiflow_robotics.imitation import Imitation
from rectiflow_robotics.noise import NoiseNetwork, scheduled_bounds
from rectiflow_robotics.policies import PolicyNetwork
from rectiflow_robotics.ppo import PPO, Learner, Objective, update
from rectiflow_robotics.reinflow import ReinFlow
from rectiflow_robotics.rewards import RewardScale
from rectiflow_robotics.workers import environments_of


class Trainer(Protocol):
    """An algorithm: `network` is the policy that learns, `deployed` what is made of it, the rest what a resume needs.

    `chains` is called after an iteration for a few noisy denoisings to draw, or None where there are none.
    """

    network: PolicyNetwork

    def iterate(self, iteration: int, *, restart: bool) -> dict[str, float]:
        """Act, learn and tell; `restart` begins new episodes first. "steps" are the environment steps taken."""
        ...

    def deployed(self) -> dict[str, Tensor]:
        """The weights that would act from now on; copies."""
        ...

    def chains(self) -> Path | None:
        """A few noisy denoisings of the last iteration."""
        ...

    def close(self) -> None:
        """End what simulates."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors, without the policy's weights."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


class Features:
    """What critic and noise see of an observation: the policy's normalised vector or its encoding of a picture; not trained."""

    def __init__(self, network: PolicyNetwork) -> None:
        self.network = network

    @property
    def length(self) -> int:
        """Of the vector."""
        if self.network.encoder is not None:
            return int(self.network.observe.out_features)
        return int(self.network.observe.in_features)

    @torch.no_grad()
    def __call__(self, observation: Tensor) -> Tensor:
        """(B, length)."""
        if self.network.encoder is not None:
            return self.network.features(observation)
        normal: Tensor = self.network.normalisation(observation)
        return normal


class PolicyGradient:
    """ReinFlow or DPPO: rollouts of the noisy chain, advantages, clipped updates.

    Raises:
        ConfigError: an option that is not allowed.
    """

    def __init__(self, trained: Trained, config: DictConfig) -> None:
        self.config = config
        self.domain = domain_of(trained)
        self.network, self.flow = trainable(trained)
        self.generator_seed = stream_seed(int(config.seed), "finetune")
        generator = torch.Generator().manual_seed(self.generator_seed)
        features = Features(self.network)
        noise = _noise(config, features.length, self.domain.chunk, generator)
        clone = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.noise = noise
        self.learner = self._learner(features, clone, generator)
        self.options = PPO(**plain(config.ppo))
        self.credit = Credit(**plain(config.credit))
        self.objective: Objective = objective_of(config)
        self.scale = RewardScale(int(config.envs))
        self.environments = environments_of(
            self.domain.environment,
            int(config.envs),
            workers=int(config.workers),
            reward=config.reward,
            limit=config.limit,
        )
        self.observation = self.environments.reset(0)
        self.average = copies(self.network)
        self._drawn: Path | None = None

    def _learner(self, features: Features, clone: PolicyNetwork, generator: torch.Generator) -> Learner:
        config, noise = self.config, self.noise
        chain = NoisyChain(self.flow, noise, int(config.k), features, config.clamp)
        critic = Critic(features.length, features, generator=generator)
        learnt: list[nn.Parameter] = [*self.network.parameters(), *noise.parameters()]
        actor = torch.optim.AdamW(
            [parameter for parameter in learnt if parameter.requires_grad],
            config.actor_rate,
            weight_decay=0.0,
            fused=True,
        )
        return Learner(
            chain=chain,
            critic=critic,
            actor_optimizer=actor,
            critic_optimizer=torch.optim.AdamW(critic.parameters(), config.critic_rate, weight_decay=0.0, fused=True),
            clone=NoisyChain(self.domain.flow(clone), noise, int(config.k), features, config.clamp),
            rate=float(config.actor_rate),
            imitation=_imitation(config),
        )

    def iterate(self, iteration: int, *, restart: bool) -> dict[str, float]:
        """One rollout and one update."""
        config = self.config
        progress = iteration / max(1, int(config.iterations) - 1)
        if config.noise.schedule:
            self.noise.set_bounds(*scheduled_bounds(progress, config.noise.low, config.noise.high))
        if restart:
            self.observation = self.environments.reset(stream_seed(int(config.seed), "episodes", iteration) % 2**31)
            self.scale.restart()
        generator = step_generator(self.generator_seed, iteration, 0, 0)
        rollout, self.observation = collect(
            self.learner.chain, self.environments, self.observation, int(config.chunks), generator
        )
        experience = value(rollout, self.learner.critic, self.credit, self.scale)
        acting = iteration >= int(config.warm_up)
        options = self.options.at(progress)
        started = time.perf_counter()
        figures = update(self.learner, experience, self.objective, options, generator, train_actor=acting)
        figures["update_seconds"] = time.perf_counter() - started
        for name, tensor in self.network.state_dict().items():
            self.average[name].lerp_(tensor, 1 - float(config.average))
        self._drawn = rollout.path.rows(torch.arange(min(64, len(rollout.path.states))))
        return {**_figures(rollout), **figures, "broken": float(self.environments.broken)}

    def deployed(self) -> dict[str, Tensor]:
        """The mean of the policy over the last iterations."""
        return {name: tensor.clone() for name, tensor in self.average.items()}

    def chains(self) -> Path | None:
        """The first denoisings of the last iteration."""
        return self._drawn

    def close(self) -> None:
        """End what simulates."""
        self.environments.close()

    def state_dict(self) -> dict[str, Any]:
        """Noise, critic, optimisers, scale of rewards; episodes begin anew, so environments have no state to keep."""
        learner = self.learner
        return {
            "average": self.average,
            "noise": self.noise.state_dict(),
            "critic": learner.critic.state_dict(),
            "actor_optimizer": learner.actor_optimizer.state_dict(),
            "critic_optimizer": learner.critic_optimizer.state_dict(),
            "scale": self.scale.state_dict(),
            "imitation": None if learner.imitation is None else learner.imitation.state_dict(),
            "skips": learner.skips,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        learner = self.learner
        self.average = state["average"]
        self.noise.load_state_dict(state["noise"])
        learner.critic.load_state_dict(state["critic"])
        learner.actor_optimizer.load_state_dict(state["actor_optimizer"])
        learner.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.scale.load_state_dict(state["scale"])
        if learner.imitation is not None:
            learner.imitation.load_state_dict(state["imitation"])
        learner.skips = int(state["skips"])


def copies(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights, apart from it."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def trainable(trained: Trained) -> tuple[PolicyNetwork, Flow]:
    """The run's policy network with gradients, and the flow that reads it as the run's does.

    Raises:
        ConfigError: another kind of network, or one that is not where environments are.
    """
    network = trained.network
    if not isinstance(network, PolicyNetwork):
        raise ConfigError(f"run={trained.folder} holds a {type(network).__name__}; fine-tuning needs a PolicyNetwork")
    network = network.to("cpu").requires_grad_(True)
    flow = trained.domain.flow(network)
    if trained.config.get("distill"):
        flow = trained.domain.create(trained.config.distill.method).student(flow)
    return network, flow


def domain_of(trained: Trained) -> Robotics:
    """The run's domain.

    Raises:
        ConfigError: another domain than this one.
    """
    if not isinstance(trained.domain, Robotics):
        raise ConfigError(f"run={trained.folder} is of {type(trained.domain).__name__}; it must be a run of robotics")
    return trained.domain


def objective_of(config: DictConfig) -> Objective:
    """The objective that `algorithm` names.

    Raises:
        ConfigError: it is not one with likelihood ratios, or its options are not allowed.
    """
    if config.algorithm == "reinflow":
        return ReinFlow(**plain(config.reinflow))
    if config.algorithm == "dppo":
        return DPPO(**plain(config.dppo))
    raise ConfigError(f"algorithm={config.algorithm} is unknown; allowed: reinflow, dppo, fql")


def plain(node: DictConfig) -> dict[str, Any]:
    """A section of settings as keywords."""
    return {str(key): value for key, value in OmegaConf.to_container(node).items()}  # type: ignore[union-attr]


def _noise(config: DictConfig, length: int, chunk: tuple[int, int], generator: torch.Generator) -> NoiseNetwork:
    learnt = bool(config.noise.learnt) and config.algorithm == "reinflow"
    low, high = float(config.noise.low), float(config.noise.high)
    return NoiseNetwork(length, chunk, int(config.k), low=low, high=high, learnt=learnt, generator=generator)


def _imitation(config: DictConfig) -> Imitation | None:
    weight = float(config.imitation.weight)
    return Imitation(weight, int(config.imitation.capacity)) if weight else None


def _figures(rollout: Rollout) -> dict[str, float]:
    stds = rollout.path.stds
    sigmas = {f"sigma_{k}": float(stds[:, k].mean()) for k in range(stds.shape[1])}
    saturated = float((rollout.path.states[:, -1].abs() > 1).float().mean())
    return {**rollout.figures(), **sigmas, "saturated": saturated}
