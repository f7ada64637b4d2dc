"""Flow Q-learning: a one-step policy that follows two critics and stays close to a cloned flow (arXiv 2502.02538)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rectiflow.errors import ConfigError
from rectiflow.nn.layers import linear
from rectiflow.sampling import integrate
from rectiflow.trained import Trained
from rectiflow.training.randomness import step_generator, stream_seed
from rectiflow_robotics.chain import Path
from rectiflow_robotics.chunks import Transition
from rectiflow_robotics.experience import as_observation
from rectiflow_robotics.replay import ReplayBuffer, Stored
from rectiflow_robotics.trainers import Features, copies, domain_of, trainable
from rectiflow_robotics.workers import environments_of

CRITICS = 2
WIDTH = 256


class ActionValues(nn.Module):
    """Q (critics, B) of chunks of actions: perceptrons with layer normalisation, one a critic."""

    def __init__(self, inputs: int, features: Features, *, generator: torch.Generator) -> None:
        super().__init__()
        self.features = features
        self.critics = nn.ModuleList(
            nn.Sequential(
                linear(inputs, WIDTH, generator=generator),
                nn.LayerNorm(WIDTH),
                nn.GELU(),
                linear(WIDTH, WIDTH, generator=generator),
                nn.LayerNorm(WIDTH),
                nn.GELU(),
                linear(WIDTH, 1, generator=generator),
            )
            for _ in range(CRITICS)
        )

    def forward(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Values of chunks (B, actions, components), clipped as the environment clips them."""
        seen = torch.cat([self.features(observation), actions.clamp(-1, 1).flatten(1)], dim=1)
        return torch.stack([critic(seen).squeeze(-1) for critic in self.critics])


class FQL:
    """Off-policy fine-tuning of a one-step policy a = z + v(z, 0, o), begun from the cloned one.

    The critics regress on r + gamma^n mean Q'(s', a'); the cloned flow goes on learning from what is in the buffer; the policy
    minimises alpha |a - flow(z)|^2 - mean Q / mean |Q|, the distance a mean over a chunk's numbers. Actions are of
    the policy without further noise: its z is what explores.

    Raises:
        ConfigError: more than one step, or a flow of average velocities.
    """

    def __init__(self, trained: Trained, config: DictConfig) -> None:
        if int(config.k) != 1 or trained.flow.average:
            raise ConfigError(
                f"algorithm=fql with k={config.k} on {trained.folder}: its policy takes one step from noise and is no student; "
                "use k=1 and a run that was cloned, or algorithm=reinflow"
            )
        self.config, self.options = config, config.fql
        self.domain = domain_of(trained)
        self.network, _ = trainable(trained)
        self.behaviour = copy.deepcopy(self.network)
        self.actor, self.flow = self.domain.flow(self.network), self.domain.flow(self.behaviour)
        self.seed = stream_seed(int(config.seed), "finetune")
        generator = torch.Generator().manual_seed(self.seed)
        features = Features(self.network)
        actions, components = self.domain.chunk
        self.critic = ActionValues(features.length + actions * components, features, generator=generator)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        rate = float(self.options.rate)
        parameters = (self.network.parameters(), self.behaviour.parameters(), self.critic.parameters())
        self.optimizers = [torch.optim.Adam(list(group), rate) for group in parameters]
        self.buffer = ReplayBuffer(Stored, int(self.options.capacity))
        self.environments = environments_of(
            self.domain.environment,
            int(config.envs),
            workers=int(config.workers),
            reward=config.reward,
            limit=config.limit,
        )
        self.observation = self.environments.reset(0)

    def iterate(self, iteration: int, *, restart: bool) -> dict[str, float]:
        """Act, store, and as many updates as the new chunks are worth."""
        config = self.config
        generator = step_generator(self.seed, iteration, 0, 0)
        if restart:
            self.observation = self.environments.reset(stream_seed(int(config.seed), "episodes", iteration) % 2**31)
        ended, succeeded, steps = 0.0, 0.0, 0.0
        for _ in range(int(config.chunks)):
            transition = self._act(generator)
            ended += float(transition.done.sum())
            succeeded += float(transition.success.sum())
            steps += float(transition.executed.sum())
        updates = max(1, round(float(self.options.updates) * int(config.chunks) * int(config.envs)))
        figures: dict[str, float] = {}
        for _ in range(updates):
            losses = self._update(self.buffer.draw(int(self.options.batch), generator), generator)
            figures = {name: figures.get(name, 0.0) + value / updates for name, value in losses.items()}
        success = succeeded / max(ended, 1.0)
        return {"steps": steps, "episodes": ended, "train_success": success, **figures}

    @torch.no_grad()
    def _act(self, generator: torch.Generator) -> Transition:
        now = as_observation(self.observation)
        noise = torch.randn((len(now), *self.domain.chunk), generator=generator)
        actions = self._one_step(noise, now)
        transition = self.environments.step(actions.numpy())
        discounts = float(self.config.credit.discount) ** torch.from_numpy(transition.executed).float()
        self.buffer.add(
            Stored(
                observations=now,
                actions=actions.clamp(-1, 1),
                rewards=torch.from_numpy(transition.reward).float(),
                following=as_observation(transition.final),
                discounts=discounts.masked_fill(torch.from_numpy(transition.terminated), 0.0),
            )
        )
        self.observation = transition.observation
        return transition

    def _one_step(self, noise: Tensor, observation: Tensor) -> Tensor:
        velocity: Tensor = self.actor.velocity(noise, torch.zeros(len(noise)), observation=observation)
        return noise + velocity

    def _update(self, batch: Stored, generator: torch.Generator) -> dict[str, float]:
        actor, behaviour, critic = self.optimizers
        shape = batch.actions.shape
        with torch.no_grad():
            following = self._one_step(torch.randn(shape, generator=generator), batch.following)
            target = batch.rewards + batch.discounts * self.target(batch.following, following).mean(0)
        loss = (self.critic(batch.observations, batch.actions) - target).square().mean()
        _step(critic, loss)
        cond = {"observation": batch.observations}
        cloning = self.flow.loss(batch.actions, cond, generator=generator)
        _step(behaviour, cloning)
        noise = torch.randn(shape, generator=generator)
        goal = integrate(self.flow, noise, steps=int(self.options.flow_steps), cond=cond).x
        chunk = self._one_step(noise, batch.observations)
        distance = (chunk - goal).square().mean()
        values = self.critic(batch.observations, chunk)
        policy = float(self.options.alpha) * distance - values.mean() / values.detach().abs().mean().clamp(min=1e-3)
        _step(actor, policy)
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, float(self.options.tau))
        return {
            "critic_loss": float(loss.detach()),
            "cloning_loss": float(cloning.detach()),
            "distance": float(distance.detach()),
            "value": float(values.detach().mean()),
        }

    def deployed(self) -> dict[str, Tensor]:
        """The policy as it is."""
        return copies(self.network)

    def chains(self) -> Path | None:
        """None: one step has no chain to draw."""
        return None

    def close(self) -> None:
        """End what simulates."""
        self.environments.close()

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and the buffer."""
        return {
            "behaviour": self.behaviour.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "buffer": self.buffer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.behaviour.load_state_dict(state["behaviour"])
        self.critic.load_state_dict(state["critic"])
        self.target.load_state_dict(state["target"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.buffer.load_state_dict(state["buffer"])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
