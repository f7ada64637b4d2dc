"""Points that are spread over a cloud."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rectiflow.errors import DataError


def farthest_points(points: Tensor, count: int, start: int = 0) -> Tensor:
    """Places (count,) of points of a cloud (P, 3), each the farthest from those before it, from `start` on.

    Raises:
        DataError: fewer points than are wanted, or no such start.
    """
    if not (1 <= count <= len(points) and 0 <= start < len(points)):
        raise DataError(f"{count} points of {len(points)}, from number {start}, cannot be chosen; sample more points")
    columns = np.ascontiguousarray(points.detach().cpu().numpy().T, dtype=np.float32)
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = start
    for place in range(1, count):
        last = columns[:, chosen[place - 1], None]
        gaps = columns - last
        np.minimum(nearest, np.einsum("ap,ap->p", gaps, gaps), out=nearest)
        chosen[place] = nearest.argmax()
    return torch.from_numpy(chosen).to(points.device)
