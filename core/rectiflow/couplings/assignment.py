"""The cheapest one-to-one pairing of rows and columns: exact, and fast because the search starts from good prices.

Shortest augmenting paths (scipy's linear_sum_assignment) try many columns for each row when every price starts at zero. To take
a price off each row and column changes all assignments by the same total. Prices from a few of Sinkhorn's iterations (arXiv
1306.0895), made feasible, leave costs near zero along the solution, and the paths are short.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# Below this many rows the prices cost more than they save.
_SMALLEST = 128
# Regularisation in units of the mean reduced cost, and iterations at it: further levels save less than they cost.
_LEVELS = ((0.1, 8), (0.03, 8))


def assignment(cost: Tensor) -> Tensor:
    """The column (n,) of each row in an assignment of least total cost, on the CPU.

    Args:
        cost: (n, n), floating; positive infinity forbids a pair.

    Raises:
        ValueError: no assignment avoids the forbidden pairs (scipy's own).
    """
    cost = cost.detach().cpu().double()
    reduced = _priced(cost) if len(cost) >= _SMALLEST else cost
    return torch.from_numpy(linear_sum_assignment(reduced.numpy())[1])


def _priced(cost: Tensor) -> Tensor:
    """The costs less row and column prices: at least 0, with a 0 in every row; as they are where no prices are found."""
    reduced = cost - cost.amin(1, keepdim=True)
    reduced -= reduced.amin(0)
    rough = reduced.float()
    allowed = rough.isfinite()
    scale = float(rough.where(allowed, 0.0).sum() / allowed.sum())
    if not 0 < scale < math.inf:
        return cost
    f, g = torch.zeros(2, len(cost), dtype=torch.float32)
    kernel = torch.empty_like(rough)
    for level, iterations in _LEVELS:
        regularisation = level * scale
        # Numbers so small that float32 keeps them in a slow format say nothing that 1e-17 does not.
        torch.sub(g, rough, out=kernel).add_(f[:, None]).div_(regularisation).clamp_(min=-40).exp_()
        v = torch.ones_like(g)
        for _ in range(iterations):
            u = (kernel @ v).reciprocal_()
            v = (u @ kernel).reciprocal_()
        f, g = f + regularisation * u.log(), g + regularisation * v.log()
    if not bool(f.isfinite().all()):  # a row or a column without an allowed pair
        return cost
    reduced -= (reduced - f.double()[:, None]).amin(0)
    reduced -= reduced.amin(1, keepdim=True)
    return reduced
