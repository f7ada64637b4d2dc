"""Invariant point attention: residues attend to each other by features, pair features and points carried by their frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.nn.layers import linear


class PointAttention(nn.Module):
    """Invariant point attention (Jumper et al. 2021, supplement 1.8.2) without a tensor over pairs of points.

    The squared distance of two points is |q|^2 + |k|^2 - 2 q.k. The first term is the same for all keys and drops out of the
    softmax, the second is one number a key, the last joins the scalar product: all logits are one matrix product, and so are
    the values. Positions must be centred, for the expansion cancels large coordinates. Lengths in nm.

    Args:
        width: channels of a residue.
        pair_width: channels of a pair.
        heads: attention heads.
        head_width: scalar channels a head.
        query_points: points a head that distances are taken between.
        value_points: points a head that are averaged.
        generator: draws the weights.
    """

    def __init__(
        self,
        width: int,
        pair_width: int,
        heads: int,
        head_width: int,
        query_points: int,
        value_points: int,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.query_points, self.value_points = query_points, value_points
        self.scalars = linear(width, heads * 3 * head_width, generator=generator)
        self.points = linear(width, heads * (2 * query_points + value_points) * 3, generator=generator)
        # softplus of this is 1: every head starts with the same reach.
        self.reach = nn.Parameter(torch.full((heads,), math.log(math.e - 1)))
        gathered = heads * (head_width + 4 * value_points + pair_width)
        self.output = linear(gathered, width, generator=generator)

    def forward(self, s: Tensor, pair: Tensor, bias: Tensor, matrices: Tensor, positions: Tensor) -> Tensor:
        """What each residue gathered, (B, N, width).

        Args:
            s: (B, N, width) residue features.
            pair: (B, N, N, pair_width) pair features.
            bias: (B, heads, N, N) logits of pairs, very negative where a key is padding.
            matrices: (B, N, 3, 3) body axes.
            positions: (B, N, 3), in nm, centred.
        """
        batch = len(s)
        query, key, value = self.scalars(s).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, -1)
        # Distances come from differences of large terms: never in half precision.
        with torch.autocast(s.device.type, enabled=False):
            placed = self._place(self.points(s.to(matrices.dtype)), matrices, positions)
            query_points, key_points, value_points = torch.split(
                placed, [3 * self.query_points, 3 * self.query_points, 3 * self.value_points], -1
            )
            # Both kinds of logits start at variance one (w_C and w_L of the source).
            root = torch.sqrt(F.softplus(self.reach) * math.sqrt(2 / (9 * self.query_points)))[:, None, None]
            query_points, key_points = query_points * root, key_points * root
            offset = key_points.square().sum(-1, keepdim=True) / -2
            first = torch.cat(
                (query.to(placed.dtype) / math.sqrt(self.head_width), query_points, torch.ones_like(offset)), -1
            )
            second = torch.cat((key.to(placed.dtype), key_points, offset), -1)
            logits = torch.baddbmm(
                bias.to(placed.dtype).flatten(0, 1),
                first.flatten(0, 1),
                second.flatten(0, 1).mT,
                alpha=math.sqrt(1 / 3),
            )
            attention = torch.softmax(logits, -1)
            everything = attention @ torch.cat((value.to(placed.dtype), value_points), -1).flatten(0, 1)
            everything = torch.unflatten(everything, 0, (batch, self.heads)).transpose(1, 2)
            scalars, points = torch.split(everything, [self.head_width, 3 * self.value_points], -1)
            local = (torch.unflatten(points, -1, (-1, 3)) - positions[:, :, None, None]).flatten(2, 3) @ matrices
            norms = torch.sqrt(local.square().sum(-1) + 1e-8)
        rows = torch.unflatten(attention, 0, (batch, self.heads)).transpose(1, 2)
        pairs = rows.to(pair.dtype) @ pair
        gathered = torch.cat((scalars.flatten(2), local.flatten(2), norms, pairs.flatten(2)), -1)
        result: Tensor = self.output(gathered.to(s.dtype))
        return result

    def _place(self, local: Tensor, matrices: Tensor, positions: Tensor) -> Tensor:
        """Points (B, heads, N, 3 P) in the world from their places (B, N, heads * P * 3) in the frames."""
        placed = torch.unflatten(local, -1, (-1, 3)) @ matrices.mT + positions[:, :, None]
        return torch.unflatten(placed, 2, (self.heads, -1)).flatten(-2).transpose(1, 2)
