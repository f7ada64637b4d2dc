"""Encoded shapes as batches, with what the network is told of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rectiflow.batch import Batch, Cond, State, map_state
from rectiflow.errors import ConfigError
from rectiflow_shapes.asked import conditions_of, null_conditions
from rectiflow_shapes.conditions import FREE
from rectiflow_shapes.shape_data import ShapeData

_VARIANTS = 8


class ShapeDataset:
    """States of one split with their conditions.

    A network that is told several things must also work when it is told some of them: then every shape is met in eight
    variants, of which the first says everything and the others leave out conditions, and attributes, by the toss of a coin.
    """

    def __init__(self, states: State, data: ShapeData, told: Sequence[str]) -> None:
        self.states, self.data, self.told = states, data, tuple(told)
        self.variants = 1 if self.told in ((), ("kind",)) else _VARIANTS
        self.conditions = conditions_of(data, told, torch.arange(len(data)))
        self.nothing = null_conditions(data, told)

    def __len__(self) -> int:
        return self.variants * len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The shapes at these indices."""
        numbers = torch.tensor(indices)
        rows = numbers % len(self.data)
        cond = {name: value[rows].clone() for name, value in self.conditions.items()}
        if self.variants > 1:
            for place, number in enumerate(indices):
                if number >= len(self.data):
                    self._omit(cond, place, number)
        return Batch(x1=map_state(lambda part: part[rows], self.states), cond=cond)

    def _omit(self, cond: Cond, place: int, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for name, value in cond.items():
            if torch.rand((), generator=generator) < 0.5:
                value[place] = self.nothing[name]
            elif name == "attributes":
                value[place][torch.rand(value.shape[1], generator=generator) < 0.5] = FREE


def check_split(split: str) -> None:
    """Refuse a split that shapes do not have.

    Raises:
        ConfigError: names it.
    """
    if split not in ("train", "validation"):
        raise ConfigError(f"split {split!r} is unknown; allowed: train, validation")
