"""The representation of small families: principal components of the truncated distance grid."""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow.batch import Shape, State
from rectiflow.errors import ConfigError
from rectiflow_shapes.cached_tensors import cached_tensors
from rectiflow_shapes.representation import Representation, tensor_state
from rectiflow_shapes.shape_data import ShapeData

_STRIPE = 4096


class PrincipalGrid(Representation):
    """The coefficients of a grid of truncated distances in its first principal components, in tokens of `columns` each.

    Tokens stand in the order of their components, the most important first. A component of standard deviation sigma is
    divided by sigma^whitening times a number that is the same for all, and chosen so that the state has variance 1.

    Args:
        components: how many; fewer than training shapes.
        columns: components a token, a divisor of `components`.
        whitening: 0 keeps the proportions of the components, 1 gives all the same variance.

    Raises:
        ConfigError: a value out of range.
    """

    ordered = True

    def __init__(self, components: int = 256, columns: int = 16, whitening: float = 0.5) -> None:
        if columns < 1 or components < columns or components % columns:
            raise ConfigError(f"{components} components in tokens of {columns}; the second must divide the first")
        if not 0 <= whitening <= 1:
            raise ConfigError(f"whitening={whitening} is not allowed; it must be in [0, 1]")
        self.components, self.columns, self.whitening = components, columns, whitening
        self.mean = self.basis = self.scale = torch.empty(0)

    @property
    def shape(self) -> Shape:
        """(components / columns, columns)."""
        return (self.components // self.columns, self.columns)

    def fit(self, train: ShapeData) -> None:
        """Find the components of the training grids.

        Raises:
            ConfigError: fewer training shapes than components.
        """
        if len(train) <= self.components:
            raise ConfigError(
                f"{self.components} components need more training shapes than {len(train)}; lower components or raise count"
            )
        found = cached_tensors(f"principal-{train.key}-{self.components}", lambda: self._analyse(train))
        self.mean, self.basis = found["mean"], found["basis"]
        scale = found["deviation"] ** self.whitening
        self.scale = scale * ((found["deviation"] / scale).square().mean().sqrt())

    def encode(self, data: ShapeData) -> Tensor:
        """States (N, components / columns, columns)."""
        coefficients = torch.cat(
            [(data.array("grid", rows).flatten(1) - self.mean) @ self.basis for rows in _slices(len(data), 256)]
        )
        return (coefficients / self.scale).reshape(len(data), -1, self.columns)

    def decode(self, x: State) -> Tensor:
        """Fields (B, 32, 32, 32) in units of the band."""
        grids = (tensor_state(x).flatten(1) * self.scale) @ self.basis.T + self.mean
        side = round(grids.shape[1] ** (1 / 3))
        return grids.reshape(len(grids), side, side, side)

    def _analyse(self, train: ShapeData) -> dict[str, Tensor]:
        """By the Gram matrix of the shapes, of which there are fewer than nodes."""
        grids = train.arrays["grid"].flatten(1)
        mean = torch.stack([grids[rows].float().sum(0) for rows in _slices(len(grids), 256)]).sum(0) / len(grids)
        gram = torch.zeros(len(grids), len(grids))
        for columns in _slices(grids.shape[1], _STRIPE):
            stripe = grids[:, columns].float() - mean[columns]
            gram += stripe @ stripe.T
        values, vectors = torch.linalg.eigh(gram.double())
        values, vectors = values[-self.components :].flip(0), vectors[:, -self.components :].flip(1).float()
        roots = values.clamp(min=1e-12).sqrt()
        basis = torch.cat(
            [(grids[:, part].float() - mean[part]).T @ vectors for part in _slices(grids.shape[1], _STRIPE)]
        )
        return {"mean": mean, "basis": basis / roots.float(), "deviation": (roots / len(grids) ** 0.5).float()}


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]
