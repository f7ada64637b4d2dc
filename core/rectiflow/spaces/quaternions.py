"""Unit quaternions (w, x, y, z) as rotations: Hamilton product, body frame, q and -q the same rotation.

A rotation vector (radians times axis) lives in the body frame: q * Exp(v) turns first by v, then by q. scipy and RoMa write
(x, y, z, w); e3nn and OpenFold write (w, x, y, z) as here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow.spaces.series import cosine_and_sinc


def multiply(q: Tensor, p: Tensor) -> Tensor:
    """Hamilton product (..., 4) of q (..., 4) and p (..., 4)."""
    qw, qx, qy, qz = q.unbind(-1)
    pw, px, py, pz = p.unbind(-1)
    return torch.stack(
        (
            qw * pw - qx * px - qy * py - qz * pz,
            qw * px + pw * qx + qy * pz - qz * py,
            qw * py + pw * qy + qz * px - qx * pz,
            qw * pz + pw * qz + qx * py - qy * px,
        ),
        -1,
    )


def conjugate(q: Tensor) -> Tensor:
    """Inverse (..., 4) of unit quaternions."""
    return torch.cat((q[..., :1], -q[..., 1:]), -1)


def normalize(q: Tensor) -> Tensor:
    """q / |q|; zero quaternions, which stand in padding, stay zero."""
    norm = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return q / torch.where(norm > 0, norm, torch.ones_like(norm))


def exp(v: Tensor) -> Tensor:
    """Unit quaternions (..., 4) of rotation vectors v (..., 3): (cos(|v|/2), sin(|v|/2) v / |v|)."""
    cosine, sinc = cosine_and_sinc(v.square().sum(-1, keepdim=True) / 4)
    return torch.cat((cosine, sinc * v / 2), -1)


def log(q: Tensor) -> Tensor:
    """Rotation vectors (..., 3) of length at most pi of quaternions (..., 4); the scale and the sign of q do not matter.

    2 atan2(|v|, w) v / |v|, without acos: full precision up to pi and finite gradients at zero. At exactly pi, where both
    directions are right, the one whose first non-zero component is positive is taken; a zero quaternion gives zero.
    """
    q = torch.where(_leading(q) < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    square = v.square().sum(-1, keepdim=True)
    # w is compared with |v|, not with 1, so that unnormalised predictions are safe as well.
    small = square <= 1e-8 * w.square()
    one = torch.ones_like(w)
    safe_w = torch.where(small & (w > 0), w, one)
    norm = torch.where(small, one, square).sqrt()
    series = (2 - 2 / 3 * square / safe_w.square()) / safe_w
    return torch.where(small, series, 2 * torch.atan2(norm, w) / norm) * v


def rotate(q: Tensor, y: Tensor) -> Tensor:
    """Vectors y (..., 3) turned by unit quaternions q (..., 4), from the body to the world frame."""
    v = q[..., 1:].expand_as(y)
    twice: Tensor = 2 * torch.linalg.cross(v, y)
    turned: Tensor = y + q[..., :1] * twice + torch.linalg.cross(v, twice)
    return turned


def to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4); their columns are the body axes in the world frame."""
    axes = torch.eye(3, dtype=q.dtype, device=q.device).expand(*q.shape[:-1], 3, 3)
    return rotate(q[..., None, :].expand(*q.shape[:-1], 3, 4), axes).mT


def from_matrix(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4) with w >= 0 of rotation matrices (..., 3, 3).

    The products 4 q_i q_j can all be read off the matrix; the row of the largest component divides by no small number.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    products = (
        torch.stack((1 + xx + yy + zz, zy - yz, xz - zx, yx - xy), -1),
        torch.stack((zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx), -1),
        torch.stack((xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy), -1),
        torch.stack((yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz), -1),
    )
    rows = torch.stack(products, -2)
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = rows.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    q = normalize(row)
    return torch.where(q[..., :1] < 0, -q, q)


def _leading(q: Tensor) -> Tensor:
    """The first non-zero component (..., 1): its sign tells q from -q."""
    w, x, y, z = (q[..., i : i + 1] for i in range(4))
    return torch.where(w != 0, w, torch.where(x != 0, x, torch.where(y != 0, y, z)))
