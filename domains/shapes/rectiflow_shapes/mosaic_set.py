"""Mosaics as what a flow generates: sets of cubes, normalised, their grids by their principal components."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rectiflow.batch import Shape, State
from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.cached_tensors import cached_tensors
from rectiflow_shapes.mosaic import NODES, Mosaic, convert, decode
from rectiflow_shapes.mosaic_checking import fidelity
from rectiflow_shapes.representation import Representation
from rectiflow_shapes.shape_data import ShapeData
from rectiflow_shapes.signed_distance import Engine, signed_distance

_WORTH_PROCESSES = 200
_LOOKED_AT = 24
Arrays = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]


class MosaicSet(Representation):
    """A Mosaic-SDF (arXiv 2312.09222) as a set of rows: `positions` (n, 3), `scales` (n, 1), `values` (n, rank).

    Positions are divided by one number and logarithms of scales standardised. Distances are divided by the scale of their cube,
    which leaves the shape of the surface in it, and written in their first principal components over the training shapes; a
    component of standard deviation sigma is divided by sigma^whitening times a number that gives the values variance 1. The
    numbers are found on the training shapes and kept in the cache.

    Args:
        cubes: n; `rectiflow_shapes.mosaic_checking.fidelity` tells whether it is enough.
        nodes: k, nodes a side of a cube's grid.
        rank: principal components kept, up to k^3, where the rows hold all that a mosaic does.
        whitening: 0 keeps the proportions of the components, 1 gives all the same variance.
        resolution: nodes a side of decoded fields.
        kept: share of training shapes, of two dozen that are looked at, whose volume and bodies must come back; 0: any.

    Raises:
        ConfigError: a value out of range.
    """

    ordered = False

    def __init__(
        self,
        cubes: int = 64,
        nodes: int = NODES,
        rank: int = 32,
        whitening: float = 0.5,
        resolution: int = 64,
        kept: float = 0.8,
    ) -> None:
        if cubes < 1 or nodes < 2 or not 1 <= rank <= nodes**3 or resolution < 2:
            raise ConfigError(
                f"a mosaic got cubes={cubes}, nodes={nodes}, rank={rank}, resolution={resolution}; allowed: cubes of at least 1, "
                "nodes and resolution of at least 2, and a rank from 1 to nodes^3"
            )
        if not (0 <= whitening <= 1 and 0 <= kept <= 1):
            raise ConfigError(f"whitening={whitening} and kept={kept} must be in [0, 1]")
        self.cubes, self.nodes, self.rank, self.whitening, self.resolution = cubes, nodes, rank, whitening, resolution
        self.kept = kept
        self.statistics: dict[str, Tensor] = {}

    @property
    def shape(self) -> Shape:
        """{"positions": (n, 3), "scales": (n, 1), "values": (n, rank)}."""
        return {"positions": (self.cubes, 3), "scales": (self.cubes, 1), "values": (self.cubes, self.rank)}

    def fit(self, train: ShapeData) -> None:
        """Find the statistics of the training shapes' mosaics, and look whether shapes come back.

        Raises:
            DataError: too few of them do.
        """
        name = f"{train.key}-{self.cubes}-{self.nodes}"
        self.statistics = cached_tensors(f"mosaic-statistics-{name}", lambda: mosaic_statistics(*self._mosaics(train)))
        if not self.kept:
            return
        found = cached_tensors(f"mosaic-kept-{name}-{self.rank}-{self.resolution}", lambda: self._look(train))
        share = float(found["faithful"].double().mean())
        if share < self.kept:
            raise DataError(
                f"{self.cubes} cubes of {self.nodes}^3 nodes keep volume and bodies of {share:.0%} of the shapes looked at; "
                f"representation.kept={self.kept:.0%} is asked for: raise representation.nodes, rank or cubes, or lower kept"
            )

    def encode(self, data: ShapeData) -> State:
        """The mosaics of shapes, normalised; each shape's is made once and kept in the cache."""
        return self.state(*self._mosaics(data))

    def state(self, positions: Tensor, scales: Tensor, values: Tensor) -> State:
        """Normalised state of mosaics (B, n, ...), in float32."""
        known = self.statistics
        relative = (values.float() / scales[..., None, None, None]).flatten(2) - known["mean"]
        return {
            "positions": positions / known["position"],
            "scales": ((scales.log() - known["log_scale"][0]) / known["log_scale"][1])[..., None],
            "values": relative @ known["basis"][:, : self.rank] / self._sizes(),
        }

    def mosaics(self, x: State) -> list[Mosaic]:
        """The mosaics of a state (B, n, ...), the scales of each within those of the training shapes.

        A conversion gives all cubes of a shape one scale, so the generated ones are averaged.
        """
        if not isinstance(x, dict):
            raise ConfigError(
                "a mosaic's state has the components positions, scales and values; got one tensor: use the state of its flow"
            )
        known = {name: value.to(x["positions"].device) for name, value in self.statistics.items()}
        logs = known["log_scale"][0] + known["log_scale"][1] * x["scales"][..., 0].mean(1, keepdim=True)
        scales = logs.clamp(*known["log_scale_range"]).exp().expand(-1, self.cubes)
        basis = known["basis"][:, : self.rank]
        relative = (x["values"] * self._sizes().to(basis)) @ basis.T + known["mean"]
        values = relative.reshape(*relative.shape[:2], *(self.nodes,) * 3) * scales[..., None, None, None]
        return [Mosaic(*parts) for parts in zip(x["positions"] * known["position"], scales, values, strict=True)]

    def decode(self, x: State) -> Tensor:
        """Fields (B, R, R, R) of states, with flood-filled signs where no cube reaches."""
        return torch.stack([decode(mosaic, self.resolution) for mosaic in self.mosaics(x)])

    def _look(self, train: ShapeData) -> dict[str, Tensor]:
        rows = torch.linspace(0, len(train) - 1, min(_LOOKED_AT, len(train))).long()
        mosaics = self.mosaics(self.state(*(part[rows] for part in self._mosaics(train))))
        found = [
            fidelity(mosaic, train.mesh(row), self.resolution).faithful
            for mosaic, row in zip(mosaics, rows.tolist(), strict=True)
        ]
        return {"faithful": torch.tensor(found)}

    def _sizes(self) -> Tensor:
        deviation = self.statistics["deviation"][: self.rank]
        sizes = deviation**self.whitening
        return sizes * (deviation / sizes).square().mean().sqrt()

    def _mosaics(self, data: ShapeData) -> tuple[Tensor, Tensor, Tensor]:
        found = cached_tensors(
            f"mosaic-{data.key}-{self.cubes}-{self.nodes}", lambda: convert_all(data, self.cubes, self.nodes)
        )
        return found["positions"], found["scales"], found["values"]


def mosaic_statistics(positions: Tensor, scales: Tensor, values: Tensor) -> dict[str, Tensor]:
    """What states are normalised by, from mosaics (N, n, ...): sizes of the groups, and principal components of the grids."""
    relative = (values.float() / scales[..., None, None, None]).reshape(-1, values[0, 0].numel())
    mean = relative.mean(0)
    covariance = (relative - mean).T @ (relative - mean) / len(relative)
    variances, basis = torch.linalg.eigh(covariance.double())
    logs = scales.log()
    return {
        "position": positions.square().mean().sqrt(),
        "log_scale": torch.stack([logs.mean(), logs.std().clamp(min=1e-3)]),
        "log_scale_range": torch.stack([logs.min(), logs.max()]),
        "mean": mean,
        "basis": basis.flip(1).float(),
        "deviation": variances.flip(0).clamp(min=1e-12).sqrt().float(),
    }


def convert_all(data: ShapeData, cubes: int, nodes: int) -> dict[str, Tensor]:
    """Mosaics of shapes, stacked: positions and scales in float32, values in float16; by all cores when there are many."""
    shapes: Iterable[Arrays] = (
        (np.asarray(mesh.vertices), np.asarray(mesh.faces), data.array("cloud", slice(row, row + 1))[0].numpy())
        for row, mesh in enumerate(map(data.mesh, range(len(data))))
    )
    parts = list(
        track(
            _mapped(partial(_converted, cubes, nodes, data.engine), shapes, len(data)),
            "converting to mosaics",
            len(data),
            console=Console(stderr=True),
            transient=True,
        )
    )
    positions, scales, values = (torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True))
    return {"positions": positions, "scales": scales, "values": values}


def _mapped(
    work: partial[tuple[NDArray[np.floating], ...]], shapes: Iterable[Arrays], count: int
) -> Iterator[tuple[NDArray[np.floating], ...]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1 or count < _WORTH_PROCESSES:
        yield from map(work, shapes)
        return
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, shapes, chunksize=16)


def _converted(cubes: int, nodes: int, engine: Engine, shape: Arrays) -> tuple[NDArray[np.floating], ...]:
    vertices, faces, cloud = shape
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    mosaic = convert(
        torch.from_numpy(cloud), lambda queries: signed_distance(mesh, queries, engine), cubes, nodes=nodes
    )
    return mosaic.positions.numpy(), mosaic.scales.numpy(), mosaic.values.half().numpy()
