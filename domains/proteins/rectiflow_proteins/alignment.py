"""Superposition and TM-score: how alike two backbones are, many pairs at a time.

RMSD is the root of the mean squared distance after superposition. The TM-score (Zhang and Skolnick 2004) sums
1 / (1 + (d / d0)^2) over aligned residues, over the length of the first chain, d0 = 1.24 (N - 15)^(1/3) - 1.8 and at least 0.5 A.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectiflow.spaces import quaternions

FRAGMENT = 8
STARTS = 8
KEPT = 8
ROUNDS = 6
SEARCH_SCALE = 3.0  # Angstrom: with the small d0 of short chains the search would see nothing but itself
_MOST_DISTANCES = 1 << 24


def superpose(mobile: Tensor, fixed: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotation (..., 3, 3) and shift (..., 3) that bring mobile (..., N, 3) closest to fixed (..., N, 3).

    Never a reflection: the rotation is the leading eigenvector of Horn's quaternion matrix (Horn 1987). `weights`, (..., N), are
    not negative.
    """
    share = torch.ones_like(mobile[..., 0]) if weights is None else weights
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-12)
    from_centre = (share[..., None] * mobile).sum(-2)
    to_centre = (share[..., None] * fixed).sum(-2)
    covariance = ((mobile - from_centre[..., None, :]) * share[..., None]).mT @ (fixed - to_centre[..., None, :])
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in covariance.unbind(-2))
    matrix = torch.stack(
        [
            torch.stack((xx + yy + zz, yz - zy, zx - xz, xy - yx), -1),
            torch.stack((yz - zy, xx - yy - zz, xy + yx, zx + xz), -1),
            torch.stack((zx - xz, xy + yx, yy - xx - zz, yz + zy), -1),
            torch.stack((xy - yx, zx + xz, yz + zy, zz - xx - yy), -1),
        ],
        -2,
    )
    rotation = quaternions.to_matrix(torch.linalg.eigh(matrix)[1][..., -1])
    return rotation, to_centre - (rotation @ from_centre[..., None]).squeeze(-1)


def rmsd(first: Tensor, second: Tensor) -> Tensor:
    """Root mean squared distance (...), Angstrom, of points (..., N, 3) after superposition."""
    return _gaps(first, second).square().mean(-1).sqrt()


def mean_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean distance (...), Angstrom, after superposition: never more than the RMSD, and called so in some published code."""
    return _gaps(first, second).mean(-1)


def tm_scores(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """TM-scores (P,), in (0, 1], of pairs of chains given by their CA positions (N, 3) and (M, 3), N and M at least 5.

    The alignment is searched as TM-align does (Zhang and Skolnick 2005): superpositions of fragments, then alternately the best
    order-keeping alignment and the best superposition. It is a lower bound on the best possible score.
    """
    found: list[Tensor] = [torch.empty(0)] * len(first)
    order = sorted(range(len(first)), key=lambda i: (len(first[i]), len(second[i])))
    while order:
        longest = max(max(len(first[i]), len(second[i])) for i in order[-64:])
        chunk = max(1, _MOST_DISTANCES // (STARTS**2 * longest**2))
        rows, order = order[-chunk:], order[:-chunk]
        scores = _tm(*_stacked([first[i] for i in rows]), *_stacked([second[i] for i in rows]))
        for row, score in zip(rows, scores, strict=True):
            found[row] = score
    return torch.stack(found) if found else torch.empty(0)


def _tm(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    length = x_mask.sum(1)
    scale = (1.24 * (length - 15).clamp(min=0).double().pow(1 / 3) - 1.8).clamp(min=0.5).to(x)
    search = scale.clamp(min=SEARCH_SCALE)
    rotation, shift = (part.flatten(0, 1) for part in _seeds(x, x_mask, y, y_mask, search))
    x, x_mask, y, y_mask, length, scale, search = (
        part.repeat_interleave(KEPT, 0) for part in (x, x_mask, y, y_mask, length, scale, search)
    )
    best = x.new_zeros(len(x))
    for round_ in range(ROUNDS):
        # The last rounds polish with the scale of the score itself.
        wide = search if round_ < ROUNDS - 2 else scale
        squares = _squares(x @ rotation.mT + shift[:, None], y)
        partner = _align(_closeness(squares, wide) * x_mask[:, :, None] * y_mask[:, None])
        aligned = (partner >= 0) & x_mask & torch.gather(y_mask, 1, partner.clamp(min=0))
        goal = torch.gather(y, 1, partner.clamp(min=0)[..., None].expand(-1, -1, 3))
        for _ in range(3):
            gap = (x @ rotation.mT + shift[:, None] - goal).square().sum(-1)
            # The score's own weights: its gradient is that of the weighted squares.
            rotation, shift = superpose(x, goal, _closeness(gap, wide).square() * aligned)
        gap = (x @ rotation.mT + shift[:, None] - goal).square().sum(-1)
        best = torch.maximum(best, (_closeness(gap, scale) * aligned).sum(1) / length)
    scores: Tensor = best.reshape(-1, KEPT).amax(1)
    return scores


def _seeds(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (P, K, 3, 3) and shifts (P, K, 3) of the most promising superpositions of a fragment on a fragment."""
    size = min(FRAGMENT, int(x_mask.sum(1).min()), int(y_mask.sum(1).min()))
    starts_x, starts_y = _starts(x_mask, size), _starts(y_mask, size)
    offset = torch.arange(size, device=x.device)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    pieces_x, pieces_y = (
        points[batch, starts[..., None] + offset] for points, starts in ((x, starts_x), (y, starts_y))
    )
    shape = (*starts_x.shape, starts_y.shape[1], size, 3)
    rotations, shifts = superpose(pieces_x[:, :, None].expand(shape), pieces_y[:, None].expand(shape))
    rotations, shifts = rotations.flatten(1, 2), shifts.flatten(1, 2)
    moved = torch.einsum("psij,pnj->psni", rotations, x) + shifts[:, :, None]
    squares = _squares(moved.flatten(1, 2), y).reshape(len(x), rotations.shape[1], -1, y.shape[1])
    squares = squares.masked_fill(~y_mask[:, None, None], float("inf")).amin(-1)
    promise = (_closeness(squares, scale) * x_mask[:, None]).sum(-1)
    chosen = promise.topk(KEPT, 1).indices
    rows = batch[:, :, 0]
    return rotations[rows, chosen], shifts[rows, chosen]


def _starts(mask: Tensor, size: int) -> Tensor:
    """First residues (P, S) of fragments, spread over each chain from end to end."""
    last = mask.sum(1, keepdim=True) - size
    return (torch.linspace(0, 1, STARTS, device=mask.device) * last).round().long()


def _align(closeness: Tensor) -> Tensor:
    """For each residue of the first chain its partner, (P, N), -1 for none: the order-keeping alignment of largest sum.

    Gaps cost nothing, so a row of the dynamic programme is a running maximum.
    """
    pairs, rows, columns = closeness.shape
    table = closeness.new_zeros(pairs, rows + 1, columns + 1)
    for row in range(rows):
        best = torch.maximum(table[:, row, 1:], table[:, row, :-1] + closeness[:, row])
        table[:, row + 1, 1:] = best.cummax(1).values
    partner = torch.full((pairs, rows), -1, dtype=torch.int64, device=closeness.device)
    batch = torch.arange(pairs, device=closeness.device)
    i, j = torch.full_like(batch, rows), torch.full_like(batch, columns)
    for _ in range(rows + columns):
        inside = (i > 0) & (j > 0)
        here = table[batch, i, j]
        up, left = table[batch, (i - 1).clamp(min=0), j], table[batch, i, (j - 1).clamp(min=0)]
        matched = inside & (here > up) & (here > left)
        partner[batch[matched], i[matched] - 1] = j[matched] - 1
        step_up = matched | (inside & (here == up))
        step_left = matched | (inside & ~step_up)
        i, j = i - step_up.long(), j - step_left.long()
    return partner


def _closeness(squares: Tensor, scale: Tensor) -> Tensor:
    return 1 / (1 + squares / scale.square().reshape(-1, *(1,) * (squares.ndim - 1)))


def _squares(x: Tensor, y: Tensor) -> Tensor:
    lengths = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None]
    squares: Tensor = torch.baddbmm(lengths, x, y.mT, alpha=-2).clamp(min=0)
    return squares


def _gaps(first: Tensor, second: Tensor) -> Tensor:
    rotation, shift = superpose(first, second)
    gaps: Tensor = torch.linalg.vector_norm(first @ rotation.mT + shift[..., None, :] - second, dim=-1)
    return gaps


def _stacked(chains: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Padded positions (P, N, 3), each chain centred, and mask (P, N)."""
    stacked = torch.nn.utils.rnn.pad_sequence([chain - chain.mean(0) for chain in chains], batch_first=True)
    lengths = torch.tensor([len(chain) for chain in chains])
    return stacked, torch.arange(stacked.shape[1]) < lengths[:, None]
