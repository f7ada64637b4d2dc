"""Shapes of one split, as tensors: distances, surface points, what they are called and what can be asked of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from rectiflow_shapes.conditions import attribute_rows
from rectiflow_shapes.grids import truncated_grid
from rectiflow_shapes.signed_distance import Engine, signed_distance

POINTS = 2048
_NEAR = (0.02, 0.08)  # standard deviations of near points, half each, in units of the box
MeasuredShape = dict[str, NDArray[np.float16]]


@dataclass(frozen=True)
class ShapeData:
    """Shapes (N) of one split.

    Attributes:
        key: what names these shapes in the cache; equal keys mean equal shapes.
        kinds: names of the kinds.
        labels: (N,) kind of each.
        attribute_names: names of what varies.
        attributes: (N, A) in [0, 1]; `FREE` where a shape lacks one.
        captions: one a shape.
        arrays: float16, by name: `grid` (N, 32, 32, 32) truncated distances in [-1, 1], `cloud` and `normals` (N, 2048, 3) on
            the surface, `near` (N, 2048, 3) and `distance` (N, 2048) around it.
        mesh: number of a shape -> its mesh.
        engine: of signed distances to these meshes, "libigl" where nothing folds over itself.
    """

    key: str
    kinds: tuple[str, ...]
    labels: Tensor
    attribute_names: tuple[str, ...]
    attributes: Tensor
    captions: tuple[str, ...]
    arrays: dict[str, Tensor] = field(repr=False)
    mesh: Callable[[int], trimesh.Trimesh] = field(repr=False)
    engine: Engine = "libigl"

    def __len__(self) -> int:
        return len(self.labels)

    def array(self, name: str, rows: Tensor | slice = slice(None)) -> Tensor:
        """Some of an array, in float32."""
        return self.arrays[name][rows].float()

    def pick(self, rows: Tensor) -> ShapeData:
        """The shapes of these numbers."""
        chosen = rows.tolist()
        return replace(
            self,
            key=f"{self.key}-{hashlib.sha256(str(chosen).encode()).hexdigest()[:8]}",
            labels=self.labels[rows],
            attributes=self.attributes[rows],
            captions=tuple(self.captions[row] for row in chosen),
            arrays={name: value[rows] for name, value in self.arrays.items()},
            mesh=lambda number: self.mesh(chosen[number]),
        )


def measure(mesh: trimesh.Trimesh, generator: np.random.Generator, engine: Engine = "libigl") -> MeasuredShape:
    """The arrays of one shape that `ShapeData` holds of many."""
    cloud, faces = trimesh.sample.sample_surface(mesh, POINTS, seed=generator)
    spread = np.repeat(_NEAR, POINTS // 2)[:, None]
    near = cloud + spread * generator.standard_normal(cloud.shape)
    measured = {
        "grid": truncated_grid(mesh, engine=engine),
        "cloud": cloud,
        "normals": mesh.face_normals[faces],
        "near": near,
        "distance": signed_distance(mesh, torch.from_numpy(near), engine),
    }
    return {name: np.asarray(value, dtype=np.float16) for name, value in measured.items()}


def assemble(
    key: str,
    kinds: tuple[str, ...],
    labels: list[int],
    attributes: list[dict[str, float]],
    captions: list[str],
    arrays: dict[str, NDArray[np.float16]],
    mesh: Callable[[int], trimesh.Trimesh],
    attribute_names: tuple[str, ...],
    engine: Engine = "libigl",
) -> ShapeData:
    """Shapes out of lists, with attributes in [0, 1] by name."""
    return ShapeData(
        key,
        kinds,
        torch.tensor(labels),
        attribute_names,
        attribute_rows(attributes, attribute_names),
        tuple(captions),
        {name: torch.from_numpy(value) for name, value in arrays.items()},
        mesh,
        engine,
    )
