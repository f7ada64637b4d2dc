"""The backbone network: from noisy frames to an estimate of the clean ones, by blocks that look and then move the frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.domain import load_object
from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import timestep_embedding
from rectiflow.nn.layers import embedding, linear
from rectiflow.spaces.quaternions import multiply, normalize
from rectiflow_proteins.clearance import keep_clear
from rectiflow_proteins.geometry import (
    ANGSTROM,
    CHAIN_NUMBERS,
    LINK_NUMBERS,
    PAIR_NUMBERS,
    chain_geometry,
    in_world,
    link_geometry,
    pair_geometry,
    pair_harmonics,
    rotation_matrices,
    seen_from,
    soft_bins,
)
from rectiflow_proteins.ipa import PointAttention

NOISE_SCALE = 10.0
LABELS = 4
FARTHEST = 2.0
OFFSETS = 32
TIME_CHANNELS = 64
LEAST_NOISE = 0.02
INDEX_CHANNELS = 32
INDEX_PERIOD = 256.0
MOST_HARMONICS = 8
CLOSEST_NEIGHBOURS = 4.5
CLEAR_FROM = 0.2
"""Estimates before are averages over much that differs, nearer to themselves than any chain."""


class Scales(NamedTuple):
    """What times mean for lengths, each (B, 1, 1): see `path_scales`."""

    shown: Tensor
    kept: Tensor
    moved: Tensor


def path_scales(t: Tensor, count: Tensor) -> Scales:
    """Preconditioning of translations (arXiv 2206.00364, table 1, for x_t = t x1 + (1 - t) x0) and chains of `count` residues.

    With sd s0 = 1 nm of noise and s1 of data (Rg = 0.22 count^0.38 nm over sqrt 3), D^2 = t^2 s1^2 + (1 - t)^2 s0^2:
    the network is shown s1 / D x_t, which has the size of data at all times; the estimate is kept x_t + moved f, with kept =
    t s1^2 / D^2 what is best without a network and moved = (1 - t) s0 s1 / D the error of that.
    """
    data = 0.22 * count.clamp(min=2) ** 0.38 / math.sqrt(3)
    noise = NOISE_SCALE * ANGSTROM
    total = torch.sqrt(t.square() * data.square() + (1 - t).square() * noise**2)
    scales = (data / total, t * data.square() / total.square(), (1 - t) * noise * data / total)
    return Scales(*(scale[:, None, None] for scale in scales))


class Modulation(nn.Module):
    """Layer norm whose shift and scale follow the time (adaLN), with a gate for the branch's end; zero at first."""

    def __init__(self, width: int, channels: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.project = linear(channels, 3 * width, generator=generator, zero=True)

    def forward(self, s: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised features and the gate, 1 at first."""
        shift, scale, gate = self.project(condition)[:, None].chunk(3, -1)
        return torch.addcmul(shift, F.layer_norm(s, (self.width,)), 1 + scale), 1 + gate


class Block(nn.Module):
    """Attention in space, a feed-forward network that sees the neighbours along the chain, and a move of the frames."""

    def __init__(
        self, width: int, reach: int, expansion: int, attention: PointAttention, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.reach = reach
        self.attention = attention
        self.before = Modulation(width, width, generator=generator)
        self.between = Modulation(width, width, generator=generator)
        seen = 3 * width + 2 * reach * CHAIN_NUMBERS + 2 * LINK_NUMBERS
        self.inward = linear(seen, expansion * width, generator=generator)
        self.outward = linear(expansion * width, width, generator=generator, zero=True)
        self.move = linear(width, 6, generator=generator, zero=True)
        nn.init.zeros_(self.attention.output.weight)

    def forward(
        self,
        s: Tensor,
        condition: Tensor,
        pair: Tensor,
        bias: Tensor,
        matrices: Tensor,
        positions: Tensor,
        mask: Tensor,
        gain: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """New features (B, N, width) and the move (B, N, 6): a shift in body axes, then the vector part of a turn.

        `gain`, (B, 1, 1) per nm, makes the faults of peptide links numbers of the size of one.
        """
        hidden, gate = self.before(s, condition)
        s = torch.addcmul(s, gate, self.attention(hidden, pair, bias, matrices, positions))
        hidden, gate = self.between(s, condition)
        hidden = hidden * mask[..., None]
        around = F.pad(hidden, (0, 0, 1, 1))
        chain = chain_geometry(matrices, positions, mask, self.reach)
        faults = gain * link_geometry(matrices, positions, mask)
        seen = torch.cat((chain, faults / torch.sqrt(1 + faults.square())), -1)
        inputs = torch.cat((hidden, around[:, :-2], around[:, 2:], seen.to(hidden.dtype)), -1)
        s = torch.addcmul(s, gate, self.outward(F.silu(self.inward(inputs))))
        return s, self.move(F.layer_norm(s, s.shape[-1:]))


class BackboneNetwork(nn.Module):
    """Frames at time t to an estimate of the clean frames, equivariant under rotation of the whole backbone.

    Args:
        width: channels of a residue.
        pair_width: channels of a pair.
        blocks: number of blocks.
        heads: attention heads.
        head_width: scalar channels a head.
        query_points: points a head that distances are taken between.
        value_points: points a head that are averaged.
        reach: neighbours along the chain, each way, that a block sees the frames of.
        bins: soft distance bins.
        expansion: hidden width of the feed-forward networks, in widths.
        harmonics: highest degree of the harmonics by which a pair's direction is described; above 1 they are e3nn's.
        told: conditions that it is trained with, of content | labels | motif; motifs need weights of their own.
        clearance: Angstrom that CA of an estimate, three or more residues apart, are kept from each other for t >= 0.2, outside
            of training (`eval()`); 0 leaves estimates as they are.
        generator: draws the weights.

    Raises:
        ConfigError: harmonics outside of 1 to 8, a clearance outside of 0 to 4.5 A.
        MissingDependency: harmonics above 1 without e3nn.
    """

    def __init__(
        self,
        width: int = 96,
        pair_width: int = 32,
        blocks: int = 4,
        heads: int = 4,
        head_width: int = 16,
        query_points: int = 4,
        value_points: int = 6,
        reach: int = 4,
        bins: int = 16,
        expansion: int = 3,
        harmonics: int = 1,
        told: Sequence[str] = ("content",),
        clearance: float = 4.0,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_harmonics(harmonics)
        if not 0 <= clearance < CLOSEST_NEIGHBOURS:
            raise ConfigError(
                f"clearance is {clearance:g} A; it must be 0 (none) or below {CLOSEST_NEIGHBOURS:g}, as near as strands come"
            )
        self.clearance = clearance
        self.heads = heads
        self.harmonics = harmonics
        self.time = linear(TIME_CHANNELS, width, generator=generator)
        self.content = linear(3, width, generator=generator)
        self.label = embedding(LABELS, width, generator=generator)
        self.index = linear(2 * INDEX_CHANNELS, width, generator=generator)
        self.place = linear(3 + 3 + 9 + 2 * reach * CHAIN_NUMBERS, width, generator=generator)
        self.offset = embedding(2 * OFFSETS + 1, pair_width, generator=generator)
        self.centers = torch.linspace(0, FARTHEST, bins)
        numbers = bins + PAIR_NUMBERS + (harmonics + 1) ** 2 - 4
        self.pair = linear(2 * numbers, pair_width, generator=generator)
        self.pair_out = linear(pair_width, pair_width, generator=generator)
        self.bias = linear(pair_width, heads * blocks, generator=generator)
        self.motif = linear(bins + PAIR_NUMBERS + 1, pair_width, generator=generator) if "motif" in told else None
        self.motif_mark = embedding(2, width, generator=generator) if "motif" in told else None
        self.reach = reach
        self.blocks = nn.ModuleList(
            Block(
                width,
                reach,
                expansion,
                PointAttention(width, pair_width, heads, head_width, query_points, value_points, generator=generator),
                generator=generator,
            )
            for _ in range(blocks)
        )

    def forward(
        self,
        x: dict[str, Tensor],
        t: Tensor,
        *,
        mask: Tensor,
        content: Tensor,
        labels: Tensor,
        self_condition: dict[str, Tensor],
        motif: Tensor | None = None,
        motif_translations: Tensor | None = None,
        motif_rotations: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The estimate of data: translations (B, N, 3) in Angstrom, centred, and rotations (B, N, 4).

        Args:
            x: translations (B, N, 3) in Angstrom and rotations (B, N, 4) as unit quaternions (w, x, y, z).
            t: (B,) times in [0, 1].
            mask: bool (B, N), True at residues.
            content: (B, 2) shares of helix and strand in [0, 1], negative where free.
            labels: (B, N) 0 coil, 1 helix, 2 strand, 3 free.
            self_condition: the last estimate, of x's form; zeros where there is none.
            motif: bool (B, N), True at residues whose frames relative to each other are given; only for a network told of them.
            motif_translations: (B, N, 3) in Angstrom, in any position.
            motif_rotations: (B, N, 4) that go with them.
        """
        present = mask[..., None].to(t.dtype)
        count = present.sum((1, 2))
        scales = path_scales(t, count)
        noisy = ANGSTROM * centred(x["translations"], present)
        q = x["rotations"]
        matrices = rotation_matrices(q)
        shown = scales.shown * noisy
        known = (self_condition["rotations"].square().sum(-1, keepdim=True) > 0).to(t.dtype)
        last_matrices = rotation_matrices(self_condition["rotations"])
        last = ANGSTROM * centred(self_condition["translations"], present) * known
        condition = F.silu(self.time(timestep_embedding(t, TIME_CHANNELS)) + self.content(describe(content, count)))
        s = (
            condition[:, None]
            + self.label(labels)
            + self.index(ends(mask).to(t.dtype))
            + self.place(
                torch.cat(
                    (
                        seen_from(matrices, shown),
                        seen_from(matrices, last - shown) * known,
                        seen_from(matrices[:, :, None], last_matrices.mT).flatten(-2),
                        chain_geometry(last_matrices, last, mask, self.reach),
                    ),
                    -1,
                )
            )
        )
        fixed = None
        if self.motif is not None and self.motif_mark is not None and motif is not None:
            s = s + self.motif_mark(motif.long())
            fixed = self._motif_pairs(motif, motif_translations, motif_rotations)
        pair = self._pairs(matrices, shown, last_matrices, last, known, fixed)
        bias = self.bias(pair).permute(0, 3, 1, 2).masked_fill(~mask[:, None, None, :], -1e9)
        biases = bias.unflatten(1, (-1, self.heads)).unbind(1)
        moved = torch.zeros_like(noisy)
        positions = shown
        # The noise that is left, down to a fifth of an Angstrom.
        gain = 1 / (1 - t + LEAST_NOISE)[:, None, None]
        for block, block_bias in zip(self.blocks, biases, strict=True):
            s, move = block(s, condition, pair, block_bias, matrices, positions, mask, gain)
            shift, turn = move.to(noisy.dtype).chunk(2, -1)
            moved = moved + in_world(matrices, shift)
            # The angle that is left is at most (1 - t) pi.
            q = normalize(multiply(q, torch.cat((torch.ones_like(turn[..., :1]), (1 - t)[:, None, None] * turn), -1)))
            matrices = rotation_matrices(q)
            positions = scales.kept * noisy + scales.moved * moved
        if self.clearance and not self.training:
            clear = keep_clear(positions, mask, ANGSTROM * self.clearance)
            positions = torch.where((t >= CLEAR_FROM)[:, None, None], clear, positions)
        return {"translations": centred(positions, present) / ANGSTROM, "rotations": q}

    def _motif_pairs(self, motif: Tensor, translations: Tensor | None, rotations: Tensor | None) -> Tensor:
        """Hidden pair features (B, N, N, pair_width) of the motif's frames, zero outside of it."""
        if translations is None or rotations is None or self.motif is None:
            raise ConfigError("a motif came without its frames; give motif_translations and motif_rotations too")
        inside = motif[..., None].to(translations.dtype)
        distance, numbers = pair_geometry(rotation_matrices(rotations), ANGSTROM * centred(translations, inside))
        both = (inside * inside.mT)[..., None]
        features = torch.cat((soft_bins(distance, self.centers.to(distance)), numbers, torch.ones_like(distance)), -1)
        fixed: Tensor = self.motif(features) * both
        return fixed

    def _directions(self, matrices: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and what else is told of pairs, with the harmonics of higher degrees where they were asked for."""
        distance, numbers = pair_geometry(matrices, positions)
        if self.harmonics == 1:
            return distance, numbers
        return distance, torch.cat((numbers, pair_harmonics(matrices, positions, self.harmonics)), -1)

    def _pairs(
        self, matrices: Tensor, shown: Tensor, last_matrices: Tensor, last: Tensor, known: Tensor, fixed: Tensor | None
    ) -> Tensor:
        """Pair features (B, N, N, pair_width) of the frames now and as they were last expected, and of places in the chain."""
        size = shown.shape[1]
        centers = self.centers.to(shown)
        distance, numbers = self._directions(matrices, shown)
        last_distance, last_numbers = self._directions(last_matrices, last)
        given = (known * known.mT)[..., None]
        features = torch.cat(
            (soft_bins(distance, centers), numbers, soft_bins(last_distance, centers) * given, last_numbers), -1
        )
        place = torch.arange(size, device=shown.device)
        offset = self.offset((place[None, :] - place[:, None]).clamp(-OFFSETS, OFFSETS) + OFFSETS)
        hidden = self.pair(features) if fixed is None else self.pair(features) + fixed
        hidden = F.silu(hidden)
        pair: Tensor = self.pair_out(hidden) + offset
        return F.layer_norm(pair, pair.shape[-1:])


def check_harmonics(degree: int) -> None:
    """Refuse degrees that e3nn does not have, and those that need it where it is not installed.

    Raises:
        ConfigError: a degree outside of 1 to 8.
        MissingDependency: a degree above 1 without e3nn.
    """
    if not 1 <= degree <= MOST_HARMONICS:
        raise ConfigError(f"model.harmonics={degree} is not allowed: an integer from 1 to {MOST_HARMONICS}")
    if degree > 1:
        load_object("e3nn.o3:spherical_harmonics", extra="shapes")


def ends(mask: Tensor) -> Tensor:
    """Waves (B, N, 64) of each residue's distance along the chain from its first and from its last residue."""
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    apart = torch.stack((place, mask.sum(1, keepdim=True) - 1 - place), -1)
    waves = timestep_embedding(apart.flatten(), INDEX_CHANNELS, scale=1.0, period=INDEX_PERIOD)
    return waves.reshape(*mask.shape, 2 * INDEX_CHANNELS)


def describe(content: Tensor, count: Tensor) -> Tensor:
    """Shares of helix and strand, 0 and marked where free, and the length in hundreds: (B, 3)."""
    return torch.cat((content, count[:, None] / 100), -1)


def centred(x: Tensor, present: Tensor) -> Tensor:
    """Points (B, N, 3) minus the mean of those that are present, (B, N, 1) of zeros and ones; zero elsewhere."""
    mean = (x * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
    return (x - mean) * present
