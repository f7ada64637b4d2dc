"""Optimal transport inside a batch of point sets that are turned onto each other first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, device_of
from rectiflow.couplings.assignment import assignment
from rectiflow.couplings.costs import as_float64, charge_mismatch, check_condition_weight, squared_distances
from rectiflow.couplings.coupling import Coupled, Coupling, with_data_rows
from rectiflow.errors import ConfigError
from rectiflow.spaces.product import Product
from rectiflow.spaces.quaternions import multiply, rotate
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.space import Space
from rectiflow.spaces.superposition import best_overlap, best_rotation


@dataclass(frozen=True)
class AlignedOT(Coupling):
    """Exact optimal transport of point sets up to rotation: the cost of a pair is the least |Q x0_i - x1_j|^2 over rotations Q.

    Then the whole source, frames included, is turned by the Q of its pair (equivariant flow matching, arXiv 2306.15030 and
    2312.07168). The sources keep their law when nothing tells one direction from another: their law is the same after any
    turn, and either the data's is too (turn every example at random) or the network turns with its input.

    States are point sets (B, N, 3), turned about the origin, so of mean zero (`ZeroMean`); or dicts with such a component.

    Args:
        points: the component of a dict that holds the points.
        frames: the component of a dict that holds orientations (B, ..., 4), unit quaternions; None where there are none.
        condition_weight: cost of a mismatch of conditions, as in `MinibatchOT`.
    """

    points: str = "translations"
    frames: str | None = "rotations"
    condition_weight: float = math.inf
    independent = False

    def __post_init__(self) -> None:
        check_condition_weight(self.condition_weight)

    def __call__(
        self,
        x0: State,
        x1: State,
        cond: Cond | None = None,
        *,
        mask: Mask = None,
        space: Space | None = None,
        generator: torch.Generator | None = None,
    ) -> Coupled:
        """x0 turned, beside x1 and cond permuted; every row is used once and nothing is drawn.

        Raises:
            ConfigError: a component is missing, of another shape or on another space, or as in `MinibatchOT`.
            NonFiniteError: a state holds NaN or infinity where it is valid.
        """
        place = self._points_space(space)
        first, second = self._points(x0), self._points(x1)
        present = mask.get(self.points) if isinstance(mask, dict) else mask
        squares = squared_distances(first, second, present, place)
        moments = _moments(first, second, present, place)
        # |Q x - y|^2 differs from |x - y|^2 by what turning adds to the inner product.
        gain = best_overlap(moments) - moments.diagonal(dim1=-2, dim2=-1).sum(-1)
        cost, _ = charge_mismatch((squares - 2 * gain).clamp(min=0), cond, self.condition_weight)
        index = assignment(cost)
        turn = best_rotation(moments[torch.arange(len(index)), index.to(moments.device)])
        return with_data_rows(self._turned(x0, turn.to(first)), x1, cond, index.to(device_of(x1)))

    def _points_space(self, space: Space | None) -> Space | None:
        if isinstance(space, Product):
            if self.frames is not None and not isinstance(space.components.get(self.frames), SO3):
                raise ConfigError(
                    f"AlignedOT turns frames {self.frames!r} on SO3; {space!r} has no such component: "
                    "name the one that it has, or give frames=None"
                )
            space = space.components.get(self.points, space)
        if space is not None and not space.linear:
            raise ConfigError(f"AlignedOT turns points of a flat space such as ZeroMean(); got {space!r}")
        return space

    def _points(self, state: State) -> Tensor:
        if isinstance(state, dict):
            wanted = [name for name in (self.points, self.frames) if name is not None]
            missing = [name for name in wanted if name not in state]
            if missing:
                raise ConfigError(f"AlignedOT needs a component {missing[0]!r}; the state has {sorted(state)}")
            state = state[self.points]
        if state.ndim != 3 or state.shape[-1] != 3:
            raise ConfigError(f"AlignedOT turns points of shape (B, N, 3); got {tuple(state.shape)}")
        return state

    def _turned(self, state: State, turn: Tensor) -> State:
        if not isinstance(state, dict):
            return rotate(turn[:, None], state)
        turned = {**state, self.points: rotate(turn[:, None], state[self.points])}
        if self.frames is not None:
            frames = state[self.frames]
            turned[self.frames] = multiply(turn.reshape(-1, *(1,) * (frames.ndim - 2), 4), frames)
        return turned


def _moments(x0: Tensor, x1: Tensor, mask: Tensor | None, space: Space | None) -> Tensor:
    """sum_n x0[i, n] x1[j, n]^T over what is valid in x1[j], which is centred if the space says so: (B, B, 3, 3) float64."""
    if mask is not None:
        x1 = x1.masked_fill(~mask.reshape(mask.shape + (1,) * (x1.ndim - mask.ndim)), 0)
    x1 = x1 if space is None else space.masked(mask).project(x1)
    return torch.einsum("ina,jnb->ijab", as_float64(x0.detach()), as_float64(x1.detach()))
