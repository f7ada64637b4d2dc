"""Chunks of the past, kept to learn from again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor


class Stored(NamedTuple):
    """Chunks with what followed; `discounts` are gamma^executed, 0 where the task ended."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    discounts: Tensor


Rows = TypeVar("Rows", bound="tuple[Tensor, ...]")


class ReplayBuffer(Generic[Rows]):
    """The last `capacity` rows, drawn from uniformly.

    Args:
        rows: the tuple of tensors that a row is part of.
        capacity: how many are kept, at least 1.
    """

    def __init__(self, rows: Callable[..., Rows], capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity
        self.stored: Rows | None = None
        self.position = 0

    def __len__(self) -> int:
        return 0 if self.stored is None else len(self.stored[0])

    def add(self, new: Rows) -> None:
        """Take in rows (n, …); the oldest give way."""
        if self.stored is None:
            self.stored = self.rows(*(part[:0].clone() for part in new))
        room = self.capacity - len(self)
        if room > 0:
            grown = zip(self.stored, new, strict=True)
            self.stored = self.rows(*(torch.cat([old, more[:room]]) for old, more in grown))
        rest = min(len(new[0]) - room, self.capacity)
        if rest > 0:
            places = (self.position + torch.arange(rest)) % self.capacity
            for old, more in zip(self.stored, new, strict=True):
                old[places] = more[-rest:]
            self.position = int((self.position + rest) % self.capacity)

    def draw(self, count: int, generator: torch.Generator) -> Rows:
        """Rows (count, …), with replacement."""
        if self.stored is None or not len(self):
            raise IndexError("the replay buffer is empty; add chunks before drawing")
        index = torch.randint(len(self), (count,), generator=generator)
        return self.rows(*(part[index] for part in self.stored))

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"stored": None if self.stored is None else list(self.stored), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.stored = None if state["stored"] is None else self.rows(*state["stored"])
        self.position = int(state["position"])
