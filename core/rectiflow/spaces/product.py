"""Products of spaces: states are dicts of tensors, one entry a component."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rectiflow.batch import Mask
from rectiflow.errors import ConfigError
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction
from rectiflow.spaces.space import Space

State = dict[str, Tensor]


class Product(Space):
    """A product of named spaces, for example `Product(translations=Euclidean(), rotations=SO3())`.

    Weights scale the product's metric: squared distances, transport costs and losses are sums of weight times those of the
    components. Geodesics, and with them paths and steps, do not depend on them. A component may have a mask of its own.

    Args:
        weights: name -> positive weight; 1 for names left out.
        schedules: name -> path for sampling instead of the flow's own (see `rectiflow.schedules`); with one, states on the way
            belong to several paths, so that the product is not linear and cannot be trained on.
        components: name -> space; a state is a dict with exactly these names.

    Raises:
        ConfigError: no components, or weights that are not positive, or weights or schedules that name no component.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        schedules: Mapping[str, Interpolant] | None = None,
        **components: Space,
    ) -> None:
        if not components:
            raise ConfigError("a product space needs at least one component; got none; pass name=space pairs")
        weights = dict(weights or {})
        for name, weight in weights.items():
            if name not in components:
                raise ConfigError(
                    f"weight for {name!r}, which is no component; allowed: {', '.join(sorted(components))}"
                )
            if not 0 < weight < math.inf:
                raise ConfigError(f"component {name!r} has weight {weight}; it must be positive and finite")
        self.schedules = dict(schedules or {})
        for name in self.schedules:
            if name not in components:
                raise ConfigError(
                    f"schedule for {name!r}, which is no component; allowed: {', '.join(sorted(components))}"
                )
        self.components = components
        self.weights = {name: float(weights.get(name, 1.0)) for name in components}

    def __repr__(self) -> str:
        parts = [f"{name}={space!r}" for name, space in self.components.items()]
        if any(weight != 1 for weight in self.weights.values()):
            parts.append(f"weights={self.weights}")
        if self.schedules:
            parts.append(f"schedules={self.schedules}")
        return f"Product({', '.join(parts)})"

    def _check(self, state: Mapping[str, object]) -> None:
        if set(state) != set(self.components):
            raise ConfigError(f"state has components {sorted(state)}; this product has {sorted(self.components)}")

    @property
    def linear(self) -> bool:
        """True when every component is, and all are on one path."""
        return not self.schedules and all(space.linear for space in self.components.values())

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
        """Root of the weighted sum of squared component distances, (B,)."""
        scaled = [
            math.sqrt(self.weights[name]) * space.distance(x[name], y[name]) for name, space in self.components.items()
        ]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(scaled), dim=0)
        return norm

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
        """Component-wise states and velocities.

        Raises:
            ConfigError: a product with sampling schedules.
        """
        self._check(x1)
        if self.schedules:
            raise ConfigError(
                f"components {sorted(self.schedules)} are on schedules for sampling; train and draw with the flow as it was "
                "before `scheduled`"
            )
        both = {name: space.path(x0[name], x1[name], t, interpolant) for name, space in self.components.items()}
        return {name: pair[0] for name, pair in both.items()}, {name: pair[1] for name, pair in both.items()}

    def convert(
        self, prediction: State, kind: Prediction, target: Prediction, x: State, t: Tensor, interpolant: Interpolant
    ) -> State:
        """Component-wise conversions."""
        return {
            name: space.convert(prediction[name], kind, target, x[name], t, self.schedules.get(name, interpolant))
            for name, space in self.components.items()
        }

    def approach(self, x: State, data: State, t: float, t_next: float, interpolant: Interpolant) -> State:
        """Component-wise approaches, each on its own schedule where it has one."""
        return {
            name: space.approach(x[name], data[name], t, t_next, self.schedules.get(name, interpolant))
            for name, space in self.components.items()
        }

    def scheduled(self, schedules: Mapping[str, Interpolant]) -> Product:
        """This product with sampling schedules for some components.

        Raises:
            ConfigError: a schedule names no component.
        """
        return Product(weights=self.weights, schedules=schedules, **self.components)

    def step(self, x: State, v: State, h: float) -> State:
        """Component-wise steps."""
        return {name: space.step(x[name], v[name], h) for name, space in self.components.items()}

    def combine(self, velocities: Sequence[State], weights: Sequence[float]) -> State:
        """Component-wise weighted sums."""
        return {
            name: space.combine([velocity[name] for velocity in velocities], weights)
            for name, space in self.components.items()
        }

    def tangent(self, x: State, v: State) -> State:
        """Component-wise tangents."""
        return {name: space.tangent(x[name], v[name]) for name, space in self.components.items()}

    def transport(self, x: State, y: State, v: State) -> State:
        """Component-wise parallel transport."""
        return {name: space.transport(x[name], y[name], v[name]) for name, space in self.components.items()}

    def pull(self, x: State, v: State, h: float, w: State) -> State:
        """Component-wise tangents in normal coordinates."""
        return {name: space.pull(x[name], v[name], h, w[name]) for name, space in self.components.items()}

    def residual(self, prediction: State, target: State, kind: Prediction, x: State) -> State:
        """Component-wise differences, times the roots of the weights."""
        return {
            name: math.sqrt(self.weights[name]) * space.residual(prediction[name], target[name], kind, x[name])
            for name, space in self.components.items()
        }

    def project(self, x: State) -> State:
        """Component-wise closest states."""
        self._check(x)
        return {name: space.project(x[name]) for name, space in self.components.items()}

    def masked(self, mask: Mask) -> Product:
        """The product of the masked components: one mask for all, or a dict that gives some or all of them their own.

        Raises:
            ConfigError: a mask names no component.
        """
        if mask is None:
            return self
        masks = self._masks(mask)
        return self._with({name: space.masked(masks.get(name)) for name, space in self.components.items()})

    def squared_distances(self, x: State, y: State, mask: Mask = None) -> Tensor:
        """Weighted sum (B, C) of the components' squared distances.

        Raises:
            ConfigError: a mask names no component.
        """
        self._check(x)
        self._check(y)
        masks = self._masks(mask)
        squares = [
            self.weights[name] * space.squared_distances(x[name], y[name], masks.get(name))
            for name, space in self.components.items()
        ]
        return torch.stack(squares).sum(0)

    def size(self, x: State) -> State:
        """Component-wise sizes."""
        return {name: space.size(x[name]) for name, space in self.components.items()}

    def rows(self) -> Product:
        """The product of the components' rows."""
        return self._with({name: space.rows() for name, space in self.components.items()})

    def _masks(self, mask: Mask) -> Mapping[str, Tensor | None]:
        masks = mask if isinstance(mask, dict) else dict.fromkeys(self.components, mask)
        if not set(masks) <= set(self.components):
            raise ConfigError(f"masks have names {sorted(masks)}; this product has {sorted(self.components)}")
        return masks

    def _with(self, components: Mapping[str, Space]) -> Product:
        return Product(weights=self.weights, schedules=self.schedules, **components)
