"""The flat space of sets without a centre: translations of a whole set are taken out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rectiflow.batch import Mask
from rectiflow.errors import ConfigError
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction
from rectiflow.spaces.euclidean import Euclidean, valid_entries


@dataclass(frozen=True)
class ZeroMean(Euclidean):
    """The subspace of R^n of states (B, ..., d) whose mean over one axis is zero, for example point sets (B, N, d).

    Of d N dimensions d (N - 1) are left: densities live on those. Sources, paths, predictions and steps are centred; entries that
    a mask declares padding neither count nor move.

    Args:
        axis: what the mean is taken over; 1, the members of a set, by default.
        mask: bool, its shape a prefix of the state's that includes the axis, True where the state holds data; usually bound
            by `masked`, batch by batch.

    Raises:
        ConfigError: the axis is the batch axis.
    """

    axis: int = 1
    mask: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.axis == 0:
            raise ConfigError("ZeroMean got axis 0, which is the batch; allowed: 1 or later, or counted from the end")

    def masked(self, mask: Mask) -> ZeroMean:
        """This space with the mask of a batch bound."""
        if isinstance(mask, dict):
            raise ConfigError(f"ZeroMean got masks by name, {sorted(mask)}; it takes one tensor")
        return self if mask is None else replace(self, mask=mask)

    def project(self, x: Tensor) -> Tensor:
        """x minus its mean over the axis, padding apart."""
        present = self._present(x)
        if present is None:
            return x - x.mean(self.axis, keepdim=True)
        count = present.expand_as(x).sum(self.axis, keepdim=True).clamp(min=1)
        mean = x.masked_fill(~present, 0).sum(self.axis, keepdim=True) / count
        return x - mean * present

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x, centred."""
        return self.project(y - x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v, with v centred."""
        return x + self.project(v)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Euclidean norm (B,) of the centred difference over all other axes, padding apart."""
        return super().distance(self._visible(self.log(x, y)), torch.zeros_like(x))

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Standard normal numbers, centred: the standard normal of the subspace."""
        return self.project(super().sample_prior(shape, generator, device=device, dtype=dtype))

    def log_prior(self, x: Tensor) -> Tensor:
        """-|x|^2 / 2 - d log(2 pi) / 2, (B,), over the d dimensions that centring leaves of the entries present."""
        seen = self._visible(torch.ones_like(x))
        means = (seen.sum(self.axis) > 0).to(x.dtype).reshape(len(x), -1).sum(1)
        dimension = seen.reshape(len(x), -1).sum(1) - means
        square = self._visible(self.project(x)).reshape(len(x), -1).square().sum(1)
        return -(square + dimension * math.log(2 * math.pi)) / 2

    def path(self, x0: Tensor, x1: Tensor, t: Tensor, interpolant: Interpolant) -> tuple[Tensor, Tensor]:
        """The flat path between the centred ends."""
        return super().path(self.project(x0), self.project(x1), t, interpolant)

    def convert(
        self, prediction: Tensor, kind: Prediction, target: Prediction, x: Tensor, t: Tensor, interpolant: Interpolant
    ) -> Tensor:
        """Any of the four kinds into any other; predictions are centred first."""
        return super().convert(self.project(prediction), kind, target, x, t, interpolant)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v, centred."""
        return self.project(v)

    def step(self, x: Tensor, v: Tensor, h: float) -> Tensor:
        """x + h v, with v centred."""
        return torch.add(x, self.project(v), alpha=h)

    def combine(self, velocities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Centred sum of weight times tangent, or of states, which exponential solvers combine."""
        return self.project(super().combine(velocities, weights))

    def residual(self, prediction: Tensor, target: Tensor, kind: Prediction, x: Tensor) -> Tensor:
        """Difference of the centred prediction and its target: a common shift of the prediction costs nothing."""
        return self.project(prediction) - target

    def squared_distances(self, x: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """|x[i] - y[j]|^2 (B, C) over the entries valid in y[j], both centred there."""
        valid = valid_entries(self, mask, y)
        y = self.masked(mask).project(y if valid is None else y.masked_fill(~valid, 0))
        if valid is None:
            return super().squared_distances(self.project(x), y)
        # y being centred, the mean of the difference is that of x over the entries that count for y.
        present = valid.to(x.dtype).movedim(self.axis, 1).flatten(2)
        count = present.sum(1)
        members = x.movedim(self.axis, 1).flatten(2)
        shifts = [torch.einsum("nr,cnr->cr", row, present).square() / count.clamp(min=1) for row in members]
        return (super().squared_distances(x, y, mask) - torch.stack(shifts).sum(2)).clamp(min=0)

    def rows(self) -> Euclidean:
        """Flat space: a common shift says nothing of who is whose partner."""
        return Euclidean()

    def _visible(self, x: Tensor) -> Tensor:
        present = self._present(x)
        return x if present is None else x.masked_fill(~present, 0)

    def _present(self, x: Tensor) -> Tensor | None:
        """The mask with as many axes as x; a guided evaluation holds the batch twice, and so the mask."""
        if self.mask is None:
            return None
        mask = self.mask.repeat(len(x) // len(self.mask), *(1,) * (self.mask.ndim - 1))
        return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
