"""Representations that are trained before the flow: the network, its task for the core's loop, and where it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import CheckpointCorrupt
from rectiflow.training.batches import Dataset
from rectiflow.training.checkpoint import load_weights
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow_shapes.cached_tensors import cached_tensors
from rectiflow_shapes.representation import Representation
from rectiflow_shapes.shape_data import ShapeData

_VERSION = 2
_MEASURED = 400


class ShapeArrays:
    """Arrays of shapes as batches, under `extra`; x1 is the first of them."""

    def __init__(self, data: ShapeData, names: tuple[str, ...]) -> None:
        self.data, self.names = data, names

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The arrays of these shapes, in float32."""
        rows = torch.tensor(indices)
        arrays = {name: self.data.array(name, rows) for name in self.names}
        return Batch(x1=arrays[self.names[0]], extra=arrays)


@dataclass
class AutoencoderTask:
    """Trains a network whose `forward(arrays, generator)` gives the terms of its loss by name, already weighted."""

    network: nn.Module

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the terms."""
        terms: dict[str, Tensor] = network(batch.extra, generator)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Nothing to look at; a flow on the representation is judged by the domain."""
        return {}


class LearnedRepresentation(Representation):
    """A representation by an autoencoder, trained when it is first needed and kept in the cache, or taken from a run.

    Args:
        run: folder of a run of `rectiflow train shapes stage=autoencoder`; "" trains here.
        training: how, as in `TrainingOptions`.
        settings: what else decides the weights, for their name in the cache.
    """

    arrays: tuple[str, ...]

    def __init__(self, network: nn.Module, run: str, training: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.network = network
        self.run = run
        self.training = TrainingOptions(**training)
        self.settings = dict(settings)
        self.statistics: dict[str, Tensor] = {}

    @abstractmethod
    def measure(self, data: ShapeData) -> dict[str, Tensor]:
        """Statistics of the codes of shapes, by which states are normalised."""

    def stage(self, train: ShapeData) -> tuple[AutoencoderTask, Dataset]:
        """The task of the loop and its data."""
        return AutoencoderTask(self.network), ShapeArrays(train, self.arrays)

    def fit(self, train: ShapeData) -> None:
        """Train, or find what was trained before.

        Raises:
            CheckpointCorrupt: the run's weights are of another autoencoder.
        """
        if self.run:
            self._load(load_weights(Path(self.run)))
            self.statistics = self.measure(_some(train))
            return
        found = cached_tensors(f"{type(self).__name__.lower()}-{self._key(train)}", lambda: self._train(train))
        self._load({name.removeprefix("weight."): value for name, value in found.items() if name.startswith("weight.")})
        self.statistics = {
            name.removeprefix("code."): value for name, value in found.items() if name.startswith("code.")
        }

    def _train(self, train: ShapeData) -> dict[str, Tensor]:
        print(f"training the autoencoder first: {self.training.steps} steps", flush=True)
        task, dataset = self.stage(train)
        fitted = fit(task, dataset, self.training)
        self._load(fitted.ema)
        weights = {f"weight.{name}": value for name, value in self.network.state_dict().items()}
        return weights | {f"code.{name}": value for name, value in self.measure(_some(train)).items()}

    def _load(self, weights: dict[str, Tensor]) -> None:
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointCorrupt(f"the weights are of another autoencoder: {reason}; check its settings") from error
        self.network.eval().requires_grad_(False)

    def _key(self, train: ShapeData) -> str:
        told = [_VERSION, train.key, self.settings, dataclasses.asdict(self.training)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _some(data: ShapeData) -> ShapeData:
    """Enough shapes to know the statistics of their codes by, spread over all of them."""
    if len(data) <= _MEASURED:
        return data
    return data.pick(torch.linspace(0, len(data) - 1, _MEASURED).long())
