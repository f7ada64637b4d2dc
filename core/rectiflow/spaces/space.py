"""What a solver, a coupling and a flow ask of a space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.errors import ConversionError
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction


class Space(ABC):
    """A state space with geodesics; states and tangents are tensors (B, ...) or, for products, dicts of them."""

    @abstractmethod
    def interpolate(self, x0: Any, x1: Any, t: Tensor) -> Any:
        """The point at fraction t (B,) of the geodesic from x0 to x1."""

    @abstractmethod
    def log(self, x: Any, y: Any) -> Any:
        """Tangent at x of the geodesic that reaches y at unit time."""

    @abstractmethod
    def exp(self, x: Any, v: Any) -> Any:
        """The point reached from x at unit time along the tangent v."""

    @abstractmethod
    def distance(self, x: Any, y: Any) -> Tensor:
        """Geodesic distance (B,) between paired states."""

    @abstractmethod
    def sample_prior(
        self,
        shape: Any,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Draw from the space's own source law; shape includes the batch axis."""

    def log_prior(self, x: Any) -> Tensor:
        """Log-density (B,) of the source law at x, in coordinates in which a density changes by the flat divergence.

        Raises:
            ConversionError: this space defines none.
        """
        raise ConversionError(
            f"the log-density of the prior of {self!r} is not defined; likelihoods need a flat space such as Euclidean"
        )

    @abstractmethod
    def path(self, x0: Any, x1: Any, t: Tensor, interpolant: Interpolant) -> tuple[Any, Any]:
        """State x_t and velocity dx_t/dt of the interpolant between x0 and x1 at times t (B,)."""

    @abstractmethod
    def convert(
        self, prediction: Any, kind: Prediction, target: Prediction, x: Any, t: Tensor, interpolant: Interpolant
    ) -> Any:
        """Turn a prediction of one kind at (x, t) into another kind.

        Raises:
            ConversionError: the space does not define one of the two kinds.
        """

    @abstractmethod
    def step(self, x: Any, v: Any, h: float) -> Any:
        """exp(x, h v) in as few operations as the space allows: the inner loop of every solver."""

    @abstractmethod
    def combine(self, velocities: Sequence[Any], weights: Sequence[float]) -> Any:
        """Weighted sum of tangents, for the stages of a solver."""

    @abstractmethod
    def flatten(self, x: Any) -> Tensor:
        """Coordinates (B, d) in which the squared Euclidean distance is the transport cost."""
