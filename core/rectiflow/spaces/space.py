"""What a solver, a coupling and a flow ask of a space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Mask
from rectiflow.errors import ConversionError
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction


class Space(ABC):
    """A state space with geodesics; states and tangents are tensors (B, ...) or, for products, dicts of them."""

    @property
    def linear(self) -> bool:
        """Whether states form a vector space, so that solvers may add and scale them like tangents."""
        return False

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
        """Log-density (B,) of `sample_prior` at states x.

        Raises:
            ConversionError: the space defines none.
        """
        raise ConversionError(f"the prior of {self!r} has no log-density here; likelihoods need a flat space")

    @abstractmethod
    def path(self, x0: Any, x1: Any, t: Tensor, interpolant: Interpolant) -> tuple[Any, Any]:
        """State x_t and velocity dx_t/dt of the interpolant between x0 and x1 at times t (B,).

        Raises:
            ConversionError: the interpolant has no path on this space.
        """

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
    def approach(self, x: Any, data: Any, t: float, t_next: float, interpolant: Interpolant) -> Any:
        """The state at t_next of the flow that is in x at time t and whose data prediction stays put: no step is too long.

        Raises:
            ConversionError: the interpolant has no path on this space.
        """

    def advance(self, x: Any, velocities: Sequence[Any], weights: Sequence[float], h: float) -> Any:
        """exp(x, h times the weighted sum of tangents at x): the last line of a solver's step."""
        return self.step(x, self.combine(velocities, weights), h)

    def tangent(self, x: Any, v: Any) -> Any:
        """The tangent at x that is closest to v: what of a network's output moves the state."""
        return v

    @abstractmethod
    def transport(self, x: Any, y: Any, v: Any) -> Any:
        """The tangent v at x, moved in parallel along the geodesic to y: for solvers that remember earlier velocities."""

    @abstractmethod
    def pull(self, x: Any, v: Any, h: float, w: Any) -> Any:
        """The tangent w at step(x, v, h) in the normal coordinates at x: the u' for which exp(x, h v + e u') moves along w.

        A Runge-Kutta method that pulls each stage back to the start of its step solves an ordinary differential equation in
        one tangent space, and so keeps its order on any space.
        """

    @abstractmethod
    def size(self, x: Any) -> Any:
        """What a relative tolerance is relative to, for the entries of tangents at x; broadcasts to their shape."""

    @abstractmethod
    def squared_distances(self, x: Any, y: Any, mask: Mask = None) -> Tensor:
        """Squared distance (B, C) of every x[i] from every y[j], over what is data in y[j]: the cost of a coupling.

        Args:
            x: B states.
            y: C states.
            mask: bool, its shape a prefix of y's, True where y holds data; or one a component, by name.
        """

    def rows(self) -> Space:
        """The space of one row of a state (B, N, ...) that is a set of N rows; N of them make a batch (N, ...)."""
        return self

    def combine(self, velocities: Sequence[Any], weights: Sequence[float]) -> Any:
        """Weighted sum of tangents at one point, for the stages of a solver."""
        total = velocities[0] if weights[0] == 1.0 else velocities[0] * weights[0]
        for i in range(1, len(velocities)):
            total = torch.add(total, velocities[i], alpha=weights[i])
        return total

    def residual(self, prediction: Any, target: Any, kind: Prediction, x: Any) -> Any:
        """Difference of a prediction and its target at x, whose mean square is the training loss."""
        return prediction - target

    def project(self, x: Any) -> Any:
        """The state of this space that is closest to x: undoes rounding, and centres or wraps raw data."""
        return x

    def masked(self, mask: Mask) -> Space:
        """This space for a batch whose padding is where the mask is False; the same space where padding does not matter."""
        return self
