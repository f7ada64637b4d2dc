"""The published backbone network, written down as it is printed: what ours is measured against.

FrameFlow (Yim et al. 2023, arXiv 2310.05297) and ReQFlow (Yue et al. 2025, arXiv 2502.14637): invariant point attention (Jumper
et al. 2021) with its tensor over pairs of points, a transformer over residues, a backbone update, an edge update between blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.spaces.quaternions import multiply, normalize, to_matrix

BINS = 22
INDEX_CHANNELS, TIME_CHANNELS = 128, 128


class DirectPointAttention(nn.Module):
    """Invariant point attention, each point of each residue against each point of each other one."""

    def __init__(self, width: int, pair_width: int, heads: int, head_width: int, points: int, values: int) -> None:
        super().__init__()
        self.heads, self.points, self.values = heads, points, values
        self.query = nn.Linear(width, heads * head_width)
        self.key_value = nn.Linear(width, 2 * heads * head_width)
        self.query_points = nn.Linear(width, heads * points * 3)
        self.key_value_points = nn.Linear(width, heads * (points + values) * 3)
        self.bias = nn.Linear(pair_width, heads)
        self.narrow = nn.Linear(pair_width, pair_width // 4)
        self.reach = nn.Parameter(torch.full((heads,), math.log(math.e - 1)))
        self.output = nn.Linear(heads * (head_width + 4 * values + pair_width // 4), width)

    def forward(self, s: Tensor, z: Tensor, matrices: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        batch, size, _ = s.shape
        q = self.query(s).view(batch, size, self.heads, -1)
        k, v = self.key_value(s).view(batch, size, self.heads, -1).chunk(2, -1)
        q_points = self._placed(self.query_points(s), matrices, positions)
        k_points, v_points = torch.split(
            self._placed(self.key_value_points(s), matrices, positions), [self.points, self.values], 3
        )
        logits = torch.einsum("bihc,bjhc->bhij", q, k) / math.sqrt(3 * q.shape[-1])
        logits = logits + math.sqrt(1 / 3) * self.bias(z).permute(0, 3, 1, 2)
        difference = q_points[:, :, None] - k_points[:, None]
        square = difference.square().sum(-1)
        weights = F.softplus(self.reach) * math.sqrt(1 / (3 * (self.points * 9 / 2)))
        logits = logits - 0.5 * (square * weights[:, None]).sum(-1).permute(0, 3, 1, 2)
        logits = logits + 1e5 * (mask[:, None, :, None] * mask[:, None, None, :] - 1)
        a = logits.softmax(-1)
        scalars = torch.einsum("bhij,bjhc->bihc", a, v).flatten(2)
        world = torch.einsum("bhij,bjhpx->bihpx", a, v_points)
        local = torch.einsum("bnyx,bnhpy->bnhpx", matrices, world - positions[:, :, None, None])
        norms = torch.sqrt(local.square().sum(-1) + 1e-8)
        pairs = torch.einsum("bhij,bijc->bihc", a, self.narrow(z)).flatten(2)
        result: Tensor = self.output(torch.cat([scalars, local.flatten(2), norms.flatten(2), pairs], -1))
        return result

    def _placed(self, flat: Tensor, matrices: Tensor, positions: Tensor) -> Tensor:
        points = flat.view(*flat.shape[:2], self.heads, -1, 3)
        return torch.einsum("bnxy,bnhpy->bnhpx", matrices, points) + positions[:, :, None, None]


class EdgeUpdate(nn.Module):
    """Pair features from themselves and both of their residues."""

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__()
        hidden = width + pair_width
        self.narrow = nn.Linear(width, width // 2)
        self.trunk = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, pair_width)
        self.norm = nn.LayerNorm(pair_width)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        narrow = self.narrow(s)
        size = s.shape[1]
        both = torch.cat([narrow[:, :, None].expand(-1, -1, size, -1), narrow[:, None].expand(-1, size, -1, -1)], -1)
        inputs = torch.cat([z, both], -1)
        result: Tensor = self.norm(self.output(self.trunk(inputs) + inputs))
        return result


class PublishedNetwork(nn.Module):
    """Frames at time t to an estimate of the clean frames, as published: 16.8 M parameters with the defaults."""

    def __init__(
        self,
        width: int = 256,
        pair_width: int = 128,
        blocks: int = 6,
        heads: int = 8,
        head_width: int = 128,
        points: int = 8,
        values: int = 12,
    ) -> None:
        super().__init__()
        self.node = nn.Linear(INDEX_CHANNELS + 1 + 2 * TIME_CHANNELS, width)
        self.edge_node, self.edge_place = nn.Linear(width, 64), nn.Linear(64, 64)
        self.edge = nn.Sequential(
            nn.Linear(128 + 64 + 2 * BINS + 2, pair_width),
            nn.ReLU(),
            nn.Linear(pair_width, pair_width),
            nn.ReLU(),
            nn.Linear(pair_width, pair_width),
            nn.LayerNorm(pair_width),
        )
        self.attention = nn.ModuleList(
            DirectPointAttention(width, pair_width, heads, head_width, points, values) for _ in range(blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.transformers = nn.ModuleList(
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(width, 4, width, dropout=0.0, batch_first=True),
                2,
                enable_nested_tensor=False,
            )
            for _ in range(blocks)
        )
        self.joins = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.transitions = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
            )
            for _ in range(blocks)
        )
        self.transition_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.moves = nn.ModuleList(nn.Linear(width, 6) for _ in range(blocks))
        self.edges = nn.ModuleList(EdgeUpdate(width, pair_width) for _ in range(blocks - 1))

    def forward(self, x: dict[str, Tensor], t: Tensor, mask: Tensor, last: Tensor) -> dict[str, Tensor]:
        """Frames (Angstrom, quaternions), times (B,), mask (B, N) and the last estimate of places (B, N, 3)."""
        batch, size = mask.shape
        present = mask.to(t.dtype)
        index = _waves(torch.arange(size, dtype=t.dtype)[None] * math.pi / 2056, INDEX_CHANNELS, 2056.0).expand(
            batch, -1, -1
        )
        time = _waves(t[:, None] * 2056, TIME_CHANNELS, 10000.0).expand(-1, size, -1)
        s = self.node(torch.cat([index, present[..., None], time, time], -1))
        z = self._edges(s, x["translations"], last, present)
        q, positions = x["rotations"], 0.1 * x["translations"]
        for number, attention in enumerate(self.attention):
            matrices = to_matrix(q)
            s = self.norms[number](s + attention(s, z, matrices, positions, present) * present[..., None])
            s = s + self.joins[number](self.transformers[number](s, src_key_padding_mask=~mask))
            s = self.transition_norms[number](s + self.transitions[number](s)) * present[..., None]
            turn, shift = self.moves[number](s).chunk(2, -1)
            positions = positions + torch.einsum("bnxy,bny->bnx", matrices, shift)
            q = normalize(multiply(q, torch.cat([torch.ones_like(turn[..., :1]), turn], -1)))
            if number < len(self.edges):
                z = self.edges[number](s, z) * (present[:, :, None] * present[:, None])[..., None]
        return {"translations": 10 * positions, "rotations": q}

    def _edges(self, s: Tensor, places: Tensor, last: Tensor, present: Tensor) -> Tensor:
        size = s.shape[1]
        node = self.edge_node(s)
        both = torch.cat([node[:, :, None].expand(-1, -1, size, -1), node[:, None].expand(-1, size, -1, -1)], -1)
        offset = (torch.arange(size)[:, None] - torch.arange(size)[None]).to(s.dtype)
        place = self.edge_place(_waves(offset * math.pi / 2056, 64, 2056.0)).expand(len(s), -1, -1, -1)
        marks = torch.stack([present[:, :, None].expand(-1, -1, size), present[:, None].expand(-1, size, -1)], -1)
        result: Tensor = self.edge(torch.cat([both, place, _histogram(places), _histogram(last), marks], -1))
        return result


def _waves(angle: Tensor, channels: int, period: float) -> Tensor:
    steps = torch.arange(channels // 2, dtype=angle.dtype) / (channels // 2)
    phase = angle[..., None] / period**steps
    return torch.cat([phase.sin(), phase.cos()], -1)


def _histogram(places: Tensor) -> Tensor:
    distance = torch.linalg.vector_norm(places[:, :, None] - places[:, None], dim=-1, keepdim=True)
    lower = torch.linspace(1e-3, 20, BINS)
    upper = torch.cat([lower[1:], torch.tensor([1e8])])
    return ((distance > lower) * (distance < upper)).to(places.dtype)
