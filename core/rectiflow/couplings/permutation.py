"""Optimal transport between the rows of each sample, for set-valued data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, batch_size, device_of, map_state, parts
from rectiflow.couplings.coupling import Coupled, Coupling
from rectiflow.errors import ConfigError, NonFiniteError


@dataclass(frozen=True)
class RowPermutation(Coupling):
    """Reorders the rows of each source so that each starts near its row of data (equivariant flow matching, arXiv 2306.15030).

    States are (B, N, ...), sets of N rows whose order carries no meaning, or dicts of such with one N, whose components move
    together. The rows of x0 must be exchangeable, as independent noise is: only then does the reordered source keep the
    prior's law as a set. x1, its conditions and its mask stay as they are. Of a masked sample the valid rows alone take
    part, and x0 keeps its rows where x1 is padding.
    """

    independent = False

    def permutation(self, x0: State, x1: State, *, mask: Mask = None) -> Tensor:
        """(B, N): row n of sample b of x1 goes with row permutation[b, n] of that sample of x0.

        Raises:
            ConfigError: shapes differ, states are no sets, or the mask is not (B, N).
            NonFiniteError: a state holds NaN or infinity where it is valid.
        """
        first, second = _rows(x0), _rows(x1)
        if first.shape != second.shape:
            raise ConfigError(
                f"x0 and x1 have rows of shapes {tuple(first.shape)} and {tuple(second.shape)}; they must agree"
            )
        size, count = first.shape[:2]
        if isinstance(mask, dict):
            raise ConfigError("a row permutation needs one mask for whole rows, not one a component")
        if mask is not None and mask.shape != (size, count):
            raise ConfigError(f"a row permutation needs a mask of shape ({size}, {count}), not {tuple(mask.shape)}")
        # |x0|^2 and |x1|^2 add the same to every assignment, so the inner product alone decides it.
        reward = torch.einsum("bnd,bmd->bmn", first, second).cpu().numpy()
        valid = np.ones((size, count), dtype=bool) if mask is None else mask.cpu().numpy()
        permutation = np.tile(np.arange(count), (size, 1))
        for sample, (block, rows) in enumerate(zip(reward, valid, strict=True)):
            places = np.flatnonzero(rows)
            mine = block[np.ix_(places, places)]
            if not np.isfinite(mine).all():
                raise NonFiniteError(f"sample {sample} of the batch has NaN or infinite rows; check its data")
            permutation[sample, places] = places[linear_sum_assignment(mine, maximize=True)[1]]
        return torch.from_numpy(permutation).to(device_of(x1))

    def __call__(
        self,
        x0: State,
        x1: State,
        cond: Cond | None = None,
        *,
        mask: Mask = None,
        generator: torch.Generator | None = None,
    ) -> Coupled:
        """x0 with its rows reordered inside each sample, beside x1 and cond as they are; nothing is drawn.

        Raises:
            ConfigError: shapes differ, states are no sets, or the mask is not (B, N).
            NonFiniteError: a state holds NaN or infinity where it is valid.
        """
        permutation = self.permutation(x0, x1, mask=mask)
        samples = torch.arange(batch_size(x1), device=permutation.device)
        return Coupled(map_state(lambda part: part[samples[:, None], permutation], x0), x1, cond, samples)


def _rows(state: State) -> Tensor:
    """(B, N, d), in float32 or better."""
    if any(part.ndim < 2 for part in parts(state)) or len({part.shape[1] for part in parts(state)}) > 1:
        raise ConfigError(
            f"states of shapes {[tuple(part.shape) for part in parts(state)]} are no sets; a row permutation needs (B, N, ...)"
        )
    joined = torch.cat([part.detach().reshape(*part.shape[:2], -1) for part in parts(state)], dim=2)
    return joined.to(torch.promote_types(joined.dtype, torch.float32))
