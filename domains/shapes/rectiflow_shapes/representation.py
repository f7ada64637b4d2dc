"""What a flow of shapes generates: numbers that a shape is turned into and back, its field and its mesh."""

from __future__ import annotations

from abc import ABC, abstractmethod

import trimesh
from torch import Tensor

from rectiflow.batch import Shape, State
from rectiflow.errors import ConfigError
from rectiflow_shapes.extraction import surface
from rectiflow_shapes.shape_data import ShapeData


class Representation(ABC):
    """A way to write shapes as normalised states and to read states as fields.

    A representation that learns does so in `fit`, which is called once with the training shapes before anything else, and
    keeps what it learned in the cache, under the data's key.

    Attributes:
        ordered: whether each token has a place of its own; otherwise the tokens of a state are a set.
    """

    ordered: bool

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of a state without its batch axis: (tokens, columns), or such a shape a component."""

    @abstractmethod
    def fit(self, train: ShapeData) -> None:
        """Learn what there is to learn from the training shapes."""

    @abstractmethod
    def encode(self, data: ShapeData) -> State:
        """States (N, ...) of shapes, their components of mean about 0 and standard deviation about 1."""

    @abstractmethod
    def decode(self, x: State) -> Tensor:
        """Fields (B, R, R, R) of states (B, ...), negative inside, at the nodes linspace(-1, 1, R)^3."""

    def meshes(self, x: State) -> list[trimesh.Trimesh]:
        """Meshes of states (B, ...)."""
        return [surface(field) for field in self.decode(x)]


def tensor_state(x: State) -> Tensor:
    """A state that must be one tensor.

    Raises:
        ConfigError: it has components.
    """
    if isinstance(x, dict):
        raise ConfigError(f"this representation's state is a tensor; got components {sorted(x)}")
    return x
