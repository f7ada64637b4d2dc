"""Shapes as the core sees them: solids, their representation, the network, meshes, pictures and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import trimesh
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Cond, Shape, State, batch_size
from rectiflow.domain import Domain
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.records import Metric, Reference
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.space import Space
from rectiflow.training.batches import Dataset
from rectiflow.training.loop import Task
from rectiflow_shapes.asked import null_conditions, requested, spread_conditions
from rectiflow_shapes.autoencoding import LearnedRepresentation
from rectiflow_shapes.batches import ShapeDataset, check_split
from rectiflow_shapes.classifier import PointClassifier, trained_classifier
from rectiflow_shapes.data import Splits
from rectiflow_shapes.evaluation import CLOUD, METRICS, Held, held_out, set_figures, surface_points, valid_share
from rectiflow_shapes.meshes import export, inspect
from rectiflow_shapes.network import check_told
from rectiflow_shapes.rendering import contact_sheet, turntable
from rectiflow_shapes.representation import Representation
from rectiflow_shapes.viewer import viewer_page

COLUMNS = 8
TURNING = 8  # shapes on a turntable


class Shapes(Domain):
    """Meshes by way of a representation of tokens, conditioned on kind, attributes and caption as far as the network is told."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        check_told(config.model.told)

    @cached_property
    def splits(self) -> Splits:
        """Training and validation shapes."""
        splits: Splits = self.create(self.config.data)
        return splits

    @cached_property
    def representation(self) -> Representation:
        """How shapes are written as states; what it learns, it has learned."""
        representation: Representation = self.create(self.config.representation)
        representation.fit(self.splits.train)
        return representation

    def dataset(self, split: str) -> ShapeDataset:
        """The shapes of a split, encoded."""
        check_split(split)
        data = self.splits.validation if split == "validation" else self.splits.train
        return ShapeDataset(self.representation.encode(data), data, self.config.model.told)

    def network(self, generator: torch.Generator) -> nn.Module:
        """The configured network for states of the representation."""
        shape, data = self.representation.shape, self.splits.train
        columns = {name: part[-1] for name, part in shape.items()} if isinstance(shape, dict) else shape[-1]
        tokens = next(iter(shape.values()))[0] if isinstance(shape, dict) else shape[0]
        network: nn.Module = self.create(
            self.config.model,
            columns=columns,
            places=tokens if self.representation.ordered else 0,
            kinds=len(data.kinds),
            attributes=len(data.attribute_names),
            generator=generator,
        )
        return network

    def flow(self, network: Callable[..., Any]) -> Flow:
        """A Euclidean flow; for states of several components their product, each with the same share of the loss."""
        shape = self.representation.shape
        space: Space = Euclidean()
        if isinstance(shape, dict):
            components: dict[str, Any] = {name: Euclidean() for name in shape}
            space = Product(**components)
        null = null_conditions(self.splits.train, self.config.model.told)
        return self.flow_of(network, space=space, null=null or None)

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """Conditions of training shapes, kinds in equal shares; or as `kind`, `caption` and `attributes` ask."""
        told = self.config.model.told
        request = {name: value for name, value in request.items() if value not in (None, {})}
        if request:
            return requested(self.splits.train, told, count, generator, request)
        return spread_conditions(self.splits.train, told, count, generator)

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """Two rows of eight."""
        return 2 * COLUMNS, self.conditions(2 * COLUMNS, generator)

    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """That of the representation, with a batch axis."""
        shape = self.representation.shape
        return {name: (count, *part) for name, part in shape.items()} if isinstance(shape, dict) else (count, *shape)

    def stage(self, name: str) -> tuple[Task, Dataset]:
        """The autoencoder of a representation that has one.

        Raises:
            ConfigError: another stage, or a representation that is not trained.
        """
        representation = self.create(self.config.representation)
        if name != "autoencoder" or not isinstance(representation, LearnedRepresentation):
            raise ConfigError(
                f"stage {name!r} is unknown for {type(representation).__name__}; allowed: flow, and autoencoder with "
                "representation=latent_grid or latent_set"
            )
        return representation.stage(self.splits.train)

    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """One GLB a shape, named by number and kind, and `turntable.gif` of the first eight; empty meshes are left out."""
        meshes = self.representation.meshes(x)
        files = [
            export(mesh, folder / f"{number:05d}{self._suffix(cond, number)}.glb")
            for number, mesh in enumerate(meshes)
            if len(mesh.faces)
        ]
        turntable(meshes[:TURNING], folder / "turntable.gif", frames=12, size=128)
        return files

    def picture(self, x: State, cond: Cond) -> Image.Image:
        """The shapes side by side."""
        meshes = self.representation.meshes(x)
        return contact_sheet(meshes, captions=self._names(cond, len(meshes)), columns=min(len(meshes), COLUMNS))

    def view(self, x: State, cond: Cond) -> str | None:
        """The shapes to turn with the mouse; None when all are empty."""
        names = self._names(cond, batch_size(x)) or [""] * batch_size(x)
        shown = [
            (mesh, f"{name} {number}".strip())
            for number, (mesh, name) in enumerate(zip(self.representation.meshes(x), names, strict=True))
            if len(mesh.faces)
        ]
        return viewer_page([mesh for mesh, _ in shown], [name for _, name in shown]) if shown else None

    @property
    def metrics(self) -> Sequence[Metric]:
        """Validity first."""
        return METRICS

    @property
    def headline(self) -> str:
        """The nearest-neighbour test: noise decodes to valid meshes too."""
        return "nna_cd"

    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Figures of samples against held-out shapes."""
        return self._figures(self.representation.meshes(x), cond)

    def quality(self, x: State, cond: Cond) -> Tensor:
        """Share of a shape's volume in its largest body, 0 where it is no solid: (count,)."""
        reports = [inspect(mesh) for mesh in self.representation.meshes(x)]
        return torch.tensor([report.largest_share if report.is_volume else 0.0 for report in reports])

    def references(self, count: int, seed: int) -> list[Reference]:
        """Other held-out shapes as the floor, through the representation too, and Gaussian noise of its size as the baseline."""
        validation, told = self.splits.validation, self.config.model.told
        half = len(validation) // 2
        rows = torch.arange(half, min(len(validation), half + count))
        others = validation.pick(rows)
        cond = spread_conditions(self.splits.train, told, count, torch.Generator().manual_seed(seed))
        states = self.representation.encode(others)
        decoded = self._figures(self.representation.meshes(states), {"kind": others.labels})
        noise = self.flow(nn.Identity()).sample_source(
            self.sample_shape(count, cond), cond, torch.Generator().manual_seed(seed)
        )
        real = [validation.mesh(row) for row in rows.tolist()]
        return [
            Reference("floor", "held-out shapes, encoded and decoded", len(rows), decoded),
            # The last floor is the one that metrics.json names.
            Reference("floor", "held-out shapes", len(rows), self._figures(real, {"kind": others.labels})),
            Reference("baseline", "decoded noise", count, self.evaluate(noise, cond)),
        ]

    def _figures(self, meshes: list[trimesh.Trimesh], cond: Mapping[str, Tensor]) -> dict[str, float]:
        clouds = surface_points(meshes)
        figures = {"valid": valid_share(meshes)}
        if "kind" in cond and len(self.splits.train.kinds) > 1:
            told = self._classifier.predict(clouds) == cond["kind"][: len(clouds)]
            figures["accuracy_points"] = float(told.double().mean())
        return figures | set_figures(clouds, self._held)

    @cached_property
    def _classifier(self) -> PointClassifier:
        return trained_classifier(self.splits.train)

    @cached_property
    def _held(self) -> Held:
        validation = self.splits.validation
        return held_out(validation.array("cloud", slice(len(validation) // 2))[:, :CLOUD])

    def _names(self, cond: Cond, count: int) -> list[str]:
        if "kind" not in cond:
            return []
        names = (*self.splits.train.kinds, "")
        return [names[kind] for kind in cond["kind"][:count].tolist()]

    def _suffix(self, cond: Cond, number: int) -> str:
        names = self._names(cond, number + 1)
        return f"-{names[number]}" if names and names[number] else ""
