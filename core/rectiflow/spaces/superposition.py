"""The rotation that lays one point set best onto another, as a unit quaternion (Horn, J. Opt. Soc. Am. A 4, 629, 1987).

The sum of y_n . (Q x_n) is the quadratic form q^T M q of the quaternion q of Q, with M made of the entries of sum x_n y_n^T:
its largest eigenvalue is the best sum and the eigenvector the rotation. Reflections do not come up, whatever the sets are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def best_overlap(moments: Tensor) -> Tensor:
    """The largest sum of y_n . (Q x_n) over all rotations Q, (...), from the moments sum_n x_n y_n^T (..., 3, 3)."""
    values: Tensor = torch.linalg.eigvalsh(_quadratic_form(moments))[..., -1]
    return values


def best_rotation(moments: Tensor) -> Tensor:
    """The rotation Q that reaches it, unit quaternions (..., 4) with w >= 0; one of several where the sets leave a choice."""
    q = torch.linalg.eigh(_quadratic_form(moments))[1][..., -1]
    return torch.where(q[..., :1] < 0, -q, q)


def _quadratic_form(moments: Tensor) -> Tensor:
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in moments.unbind(-2))
    rows = (
        (xx + yy + zz, yz - zy, zx - xz, xy - yx),
        (yz - zy, xx - yy - zz, xy + yx, zx + xz),
        (zx - xz, xy + yx, yy - xx - zz, yz + zy),
        (xy - yx, zx + xz, yz + zy, zz - xx - yy),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
