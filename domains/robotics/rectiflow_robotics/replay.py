"""Chunks that were executed, kept to learn from again and again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Stored(NamedTuple):
    """Chunks with what followed; `discounts` are gamma^executed, 0 where the task ended."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    discounts: Tensor


class ReplayBuffer:
    """The last `capacity` chunks, drawn from uniformly."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.stored: Stored | None = None
        self.position = 0

    def __len__(self) -> int:
        return 0 if self.stored is None else len(self.stored.rewards)

    def add(self, new: Stored) -> None:
        """Take in chunks (n, …); the oldest give way."""
        if self.stored is None:
            self.stored = new
            return
        room = self.capacity - len(self)
        if room > 0:
            grown = zip(self.stored, new, strict=True)
            self.stored = Stored(*(torch.cat([old, more[:room]]) for old, more in grown))
        rest = len(new.rewards) - room
        if rest > 0:
            places = (self.position + torch.arange(rest)) % self.capacity
            for old, more in zip(self.stored, new, strict=True):
                old[places] = more[-rest:]
            self.position = int((self.position + rest) % self.capacity)

    def draw(self, count: int, generator: torch.Generator) -> Stored:
        """Chunks (count, …), with replacement."""
        if self.stored is None:
            raise IndexError("the replay buffer is empty; add chunks before drawing")
        index = torch.randint(len(self), (count,), generator=generator)
        return Stored(*(part[index] for part in self.stored))

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"stored": None if self.stored is None else list(self.stored), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.stored = None if state["stored"] is None else Stored(*state["stored"])
        self.position = int(state["position"])
