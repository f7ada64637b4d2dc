"""Optimal transport between the rows of each sample, for set-valued data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, batch_size, device_of, map_state, parts, shape_of
from rectiflow.couplings.assignment import assignment
from rectiflow.couplings.costs import flat_space, squared_distances
from rectiflow.couplings.coupling import Coupled, Coupling
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.spaces.product import Product
from rectiflow.spaces.space import Space


@dataclass(frozen=True)
class RowPermutation(Coupling):
    """Reorders the rows of each source so that each starts near its row of data (equivariant flow matching, arXiv 2306.15030).

    States are (B, N, ...), sets of N rows whose order carries no meaning, or dicts of such with one N, whose components move
    together. The rows of x0 must be exchangeable, as independent noise is: only then does the reordered source keep the
    prior's law as a set. x1, its conditions and its mask stay as they are. Of a masked sample the valid rows alone take
    part, and x0 keeps its rows where x1 is padding.

    Args:
        by: the component of dicts whose rows are to be near, such as positions; the others move with it. None: all of them.
    """

    by: str | None = None
    independent = False

    def permutation(self, x0: State, x1: State, *, mask: Mask = None, space: Space | None = None) -> Tensor:
        """(B, N): row n of sample b of x1 goes with row permutation[b, n] of that sample of x0.

        Raises:
            ConfigError: shapes differ, states are no sets, the mask is not (B, N), or there is no component `by`.
            NonFiniteError: a state holds NaN or infinity where it is valid.
        """
        if shape_of(x0) != shape_of(x1):
            raise ConfigError(f"x0 and x1 have rows of shapes {shape_of(x0)} and {shape_of(x1)}; they must agree")
        size, count = _set_shape(x1)
        if self.by is not None:
            x0, x1 = (self._deciding(state) for state in (x0, x1))
            space = space.components[self.by] if isinstance(space, Product) else None
        if isinstance(mask, dict):
            raise ConfigError("a row permutation needs one mask for whole rows, not one a component")
        if mask is not None and mask.shape != (size, count):
            raise ConfigError(f"a row permutation needs a mask of shape ({size}, {count}), not {tuple(mask.shape)}")
        space = (space or flat_space(x1)).rows()
        valid = torch.ones(size, count, dtype=torch.bool) if mask is None else mask.cpu()
        permutation = torch.arange(count).repeat(size, 1)
        # One transfer a batch: the assignments are made on the CPU.
        x0_rows, x1_rows = (map_state(torch.Tensor.cpu, state) for state in (x0, x1))
        for sample in range(size):
            places = valid[sample].nonzero()[:, 0]
            data, source = (
                map_state(lambda part, at=(sample, places): part[at], state) for state in (x1_rows, x0_rows)
            )
            try:
                cost = squared_distances(data, source, space=space)
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"sample {sample} of the batch has NaN or infinite rows; check its data"
                ) from error
            permutation[sample, places] = places[assignment(cost)]
        return permutation.to(device_of(x1))

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
        """x0 with its rows reordered inside each sample, beside x1 and cond as they are; nothing is drawn.

        Raises:
            ConfigError: shapes differ, states are no sets, the mask is not (B, N), or there is no component `by`.
            NonFiniteError: a state holds NaN or infinity where it is valid.
        """
        permutation = self.permutation(x0, x1, mask=mask, space=space)
        samples = torch.arange(batch_size(x1), device=permutation.device)
        return Coupled(map_state(lambda part: part[samples[:, None], permutation], x0), x1, cond, samples)

    def _deciding(self, state: State) -> Tensor:
        if not isinstance(state, dict) or self.by not in state:
            held = f"components {sorted(state)}" if isinstance(state, dict) else "no components"
            raise ConfigError(f"rows are to be matched by {self.by!r}; the state has {held}: name one of them, or None")
        return state[self.by]


def _set_shape(state: State) -> tuple[int, int]:
    """Samples B and rows N of a state."""
    if any(part.ndim < 2 for part in parts(state)) or len({part.shape[1] for part in parts(state)}) > 1:
        raise ConfigError(
            f"states of shapes {[tuple(part.shape) for part in parts(state)]} are no sets; a row permutation needs (B, N, ...)"
        )
    return parts(state)[0].shape[0], parts(state)[0].shape[1]
