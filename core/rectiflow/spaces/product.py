"""Products of spaces: states are dicts of tensors, one entry a component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction
from rectiflow.spaces.space import Space

State = dict[str, Tensor]


class Product(Space):
    """A product of named spaces, for example `Product(translations=Euclidean(), rotations=SO3())`.

    Args:
        components: name -> space; a state is a dict with exactly these names.
    """

    def __init__(self, **components: Space) -> None:
        if not components:
            raise ConfigError("a product space needs at least one component; got none; pass name=space pairs")
        self.components = components

    def __repr__(self) -> str:
        return f"Product({', '.join(f'{name}={space!r}' for name, space in self.components.items())})"

    def _check(self, state: Mapping[str, object]) -> None:
        if set(state) != set(self.components):
            raise ConfigError(f"state has components {sorted(state)}; this product has {sorted(self.components)}")

    def interpolate(self, x0: State, x1: State, t: Tensor) -> State:
        """Component-wise geodesics at the same fraction t (B,)."""
        return {name: space.interpolate(x0[name], x1[name], t) for name, space in self.components.items()}

    def log(self, x: State, y: State) -> State:
        """Component-wise tangents."""
        return {name: space.log(x[name], y[name]) for name, space in self.components.items()}

    def exp(self, x: State, v: State) -> State:
        """Component-wise end points."""
        return {name: space.exp(x[name], v[name]) for name, space in self.components.items()}

    def distance(self, x: State, y: State) -> Tensor:
        """Root of the summed squared component distances, (B,)."""
        squares = [space.distance(x[name], y[name]).square() for name, space in self.components.items()]
        return torch.stack(squares).sum(0).sqrt()

    def sample_prior(
        self,
        shape: Mapping[str, tuple[int, ...]],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> State:
        """Component-wise priors, drawn in the order in which the components were given."""
        self._check(shape)
        return {
            name: space.sample_prior(shape[name], generator, device=device, dtype=dtype)
            for name, space in self.components.items()
        }

    def log_prior(self, x: State) -> Tensor:
        """Sum of the components' log-densities, (B,).

        Raises:
            ConversionError: a component defines none.
        """
        self._check(x)
        return torch.stack([space.log_prior(x[name]) for name, space in self.components.items()]).sum(0)

    def path(self, x0: State, x1: State, t: Tensor, interpolant: Interpolant) -> tuple[State, State]:
        """Component-wise states and velocities."""
        self._check(x1)
        both = {name: space.path(x0[name], x1[name], t, interpolant) for name, space in self.components.items()}
        return {name: pair[0] for name, pair in both.items()}, {name: pair[1] for name, pair in both.items()}

    def convert(
        self, prediction: State, kind: Prediction, target: Prediction, x: State, t: Tensor, interpolant: Interpolant
    ) -> State:
        """Component-wise conversions."""
        return {
            name: space.convert(prediction[name], kind, target, x[name], t, interpolant)
            for name, space in self.components.items()
        }

    def step(self, x: State, v: State, h: float) -> State:
        """Component-wise steps."""
        return {name: space.step(x[name], v[name], h) for name, space in self.components.items()}

    def combine(self, velocities: Sequence[State], weights: Sequence[float]) -> State:
        """Component-wise weighted sums."""
        return {
            name: space.combine([velocity[name] for velocity in velocities], weights)
            for name, space in self.components.items()
        }

    def flatten(self, x: State) -> Tensor:
        """Coordinates of all components side by side, (B, d)."""
        return torch.cat([space.flatten(x[name]) for name, space in self.components.items()], dim=1)
