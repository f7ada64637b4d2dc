"""Robotics as the core sees it: demonstrations, policy networks, pictures of chunks, and success in the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Cond, Shape, State
from rectiflow.domain import Domain
from rectiflow.drawing import Drawn
from rectiflow.errors import ConfigError, DataError
from rectiflow.flow import Flow
from rectiflow.records import Metric, Reference
from rectiflow_robotics.demonstrations import Chunks, Data, Demonstrations
from rectiflow_robotics.environments import TaskEnvironment, describe, make_environment, suite_of
from rectiflow_robotics.evaluating import RETURN, SLOTS, SUCCESS, summarise
from rectiflow_robotics.experts import expert_policy, random_policy
from rectiflow_robotics.plots import chunk_plots
from rectiflow_robotics.rollout import Policy, flow_policy, rollout

SHOWN = 16
REFERENCE_EPISODES = 25


class Robotics(Domain):
    """Chunks of actions (B, Ta, Da) in [-1, 1], each the answer to an observation."""

    @cached_property
    def data(self) -> Data:
        """The demonstrations."""
        data: Data = self.create(self.config.data)
        return data

    @property
    def environment(self) -> str:
        """The task."""
        return str(self.config.data.env)

    @property
    def observation(self) -> tuple[int, ...]:
        """Shape of an observation."""
        return tuple(self._observations.shape[1:])

    @property
    def chunk(self) -> tuple[int, int]:
        """Shape of a chunk, (Ta, Da)."""
        return int(self.config.data.chunk), self._actions

    def dataset(self, split: str) -> Chunks:
        """The demonstrations in chunks; there is no validation split, for what counts is success in fresh episodes."""
        if split != "train":
            raise ConfigError(f"split {split!r} is unknown to robotics; allowed: train")
        return Chunks(self.data.demonstrations, self.data.chunk)

    def network(self, generator: torch.Generator) -> nn.Module:
        """The configured network; its normalisation is that of the demonstrations."""
        network: nn.Module = self.create(
            self.config.model, observations=self._observations, actions=self.chunk, generator=generator
        )
        return network

    def flow(self, network: Callable[..., Any]) -> Flow:
        """A Euclidean flow of chunks."""
        return self.flow_of(network)

    def policy(self, flow: Flow, *, steps: int, method: str = "euler", device: torch.device | str = "cpu") -> Policy:
        """A flow of this domain as something that acts."""
        return flow_policy(
            flow, self.environment, self.observation, self.chunk, steps=steps, method=method, device=device
        )

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """Observations (count, …) out of the demonstrations, or the one or the several that are given.

        Without the demonstrations they are what fresh episodes begin with.
        """
        if request.get("observation") is not None:
            asked = torch.as_tensor(list(request["observation"]), dtype=torch.float32)
            asked = asked[None] if asked.ndim == len(self.observation) else asked
            if tuple(asked.shape[1:]) != self.observation:
                raise ConfigError(
                    f"cond.observation has shape {tuple(asked.shape[1:])}; {self.environment} shows {self.observation}"
                )
            return {"observation": asked[torch.arange(count) % len(asked)]}
        if self._demonstrated is None:
            return {"observation": self._first_observations(count, generator)}
        rows = torch.randint(len(self._observations), (count,), generator=generator)
        return {"observation": self._observations[rows]}

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """A few observations out of the demonstrations."""
        return SHOWN, self.conditions(SHOWN, generator)

    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """(count, Ta, Da)."""
        return (count, *self.chunk)

    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """One plot a chunk."""
        files = []
        for number, chunk in enumerate(_tensor(x)):
            files.append(folder / f"{number:05d}.png")
            chunk_plots(chunk[None]).save(files[-1])
        return files

    def picture(self, x: State, cond: Cond) -> Image.Image:
        """The chunks as curves over their steps, side by side."""
        return chunk_plots(_tensor(x))

    @property
    def metrics(self) -> Sequence[Metric]:
        """Success first; the return where a task has no success."""
        return SUCCESS if suite_of(self.environment).succeeds else RETURN

    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Nothing: a chunk alone is neither good nor bad, see `measure`."""
        return {}

    def measure(
        self, solve: Callable[[State, Cond], Drawn], x0: State, cond: Cond, seed: int
    ) -> tuple[Drawn, dict[str, float]]:
        """As many episodes as there are sources, and their figures; each step's chunk is a sample given what is seen there."""
        calls: list[Drawn] = []

        def act(observations: Tensor, noise: Tensor) -> Tensor:
            calls.append(solve(noise, {"observation": observations}))
            chunks: Tensor = calls[-1].x
            return chunks

        policy = Policy(self.environment, self.observation, self.chunk, act)
        count = len(_tensor(x0))
        found = rollout(policy, self._environments(count), episodes=count, seed=seed)
        seconds = sum(call.seconds for call in calls)
        figures = summarise(found, succeeds=suite_of(self.environment).succeeds)
        return Drawn(x=None, cond={}, nfe=float(np.mean([call.nfe for call in calls])), seconds=seconds), figures

    def references(self, count: int, seed: int) -> list[Reference]:
        """The scripted expert as the floor, where there is one, and random actions as the baseline."""
        count = min(count, REFERENCE_EPISODES)
        environments = self._environments(count)
        succeeds = environments[0].suite.succeeds
        task = describe(environments[0])

        def figures(policy: Policy) -> dict[str, float]:
            return summarise(rollout(policy, environments, episodes=count, seed=seed), succeeds=succeeds)

        expert = expert_policy(task)
        found = [] if expert is None else [Reference("floor", "the scripted expert", count, figures(expert))]
        return [*found, Reference("baseline", "random actions", count, figures(random_policy(task)))]

    @cached_property
    def _demonstrated(self) -> Demonstrations | None:
        """The demonstrations; None if they are gone, as they may be for a trained run, which brings its own normalisation."""
        try:
            return self.data.demonstrations
        except DataError:
            return None

    @cached_property
    def _observations(self) -> Tensor:
        """Observations (T, …) of the demonstrations; without them one row of the simulator's shape that is not a number."""
        if self._demonstrated is not None:
            return torch.from_numpy(self._demonstrated.observations)
        space = self._environments(1)[0].observation_space
        row = np.zeros((1, *(space.shape or ())), space.dtype)
        return torch.from_numpy(row if row.dtype == np.uint8 else row * np.nan)

    @cached_property
    def _actions(self) -> int:
        if self._demonstrated is not None:
            return int(self._demonstrated.actions.shape[1])
        return describe(self._environments(1)[0]).actions

    def _first_observations(self, count: int, generator: torch.Generator) -> Tensor:
        """What episodes of the task begin with, (count, …)."""
        environment = self._environments(1)[0]
        seeds = torch.randint(2**31, (count,), generator=generator).tolist()
        return torch.from_numpy(np.stack([environment.reset(seed=seed)[0] for seed in seeds]))

    @cached_property
    def _made(self) -> list[TaskEnvironment]:
        return []

    def _environments(self, count: int) -> list[TaskEnvironment]:
        """Up to SLOTS environments with the task's own rewards, built once."""
        while len(self._made) < min(count, SLOTS):
            self._made.append(make_environment(self.environment, reward="dense"))
        return self._made


def _tensor(x: State) -> Tensor:
    if isinstance(x, dict):
        raise ConfigError(f"chunks are tensors; got components {sorted(x)}")
    return x
