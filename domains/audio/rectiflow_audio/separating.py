"""Separation of signals of any length in constant memory: overlapping segments that share their noise, faded into each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.errors import ConfigError

Extract = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""`extract(mixture (B, T), query (B, D) or None, noise (B, *noise_shape, N))`: stems (B, K, T) of mixtures, N = 1 + T // hop."""
NOISE_BLOCK = 64


@dataclass(frozen=True)
class Separator:
    """A model as the engine sees it.

    Attributes:
        extract: see `Extract`.
        noise_shape: noise of one frame, for example (K, 2, F).
        rate: samples a second that it works at.
        hop: samples between frames.
        kept: how many of its stems, the first, are results; what is left belongs to the residual.
        unordered: whether its stems come in any order, as speakers do.
    """

    extract: Extract
    noise_shape: tuple[int, ...]
    rate: int = 16000
    hop: int = 128
    kept: int = 1
    unordered: bool = False


@dataclass(frozen=True)
class Segments:
    """How a signal is cut: segments of `length` samples, neighbours sharing at least `overlap`, at multiples of `hop`.

    hop is that of the frames, or as many of them as the model cuts time into: segments that begin elsewhere are seen otherwise.

    Raises:
        ConfigError: lengths that leave no way forward.
    """

    length: int
    overlap: int
    hop: int

    def __post_init__(self) -> None:
        if self.length % self.hop or not 0 < self.overlap <= self.length // 2 or self.stride < self.hop:
            raise ConfigError(
                f"segments of {self.length} samples with an overlap of {self.overlap} are not allowed: "
                f"a multiple of {self.hop}, and an overlap above 0 and at most half of it"
            )

    @property
    def stride(self) -> int:
        """Samples from one segment to the next."""
        return (self.length - self.overlap) // self.hop * self.hop

    def starts(self, total: int) -> list[int]:
        """Where the segments of `total` samples begin; the last one ends with the signal, or less than a hop after it."""
        last = max(0, -(-(total - self.length) // self.hop) * self.hop)
        return [*range(0, last, self.stride), last]

    def fade(self, first: bool, last: bool) -> Tensor:
        """Weights (length,) of a segment: sine-squared ramps over the overlap, none at the ends of the signal."""
        rise = torch.sin((torch.arange(self.overlap) + 0.5) * (math.pi / 2 / self.overlap)).square()
        weights = torch.ones(self.length)
        if not first:
            weights[: self.overlap] *= rise
        if not last:
            weights[-self.overlap :] *= rise.flip(0)
        return weights


def separate(
    separator: Separator,
    blocks: Iterable[Tensor],
    total: int,
    queries: Tensor | None,
    *,
    segments: Segments,
    seed: int,
    batch: int = 1,
    advance: Callable[[int], None] = lambda samples: None,
) -> Iterator[Tensor]:
    """Stems (C, S, n) of a signal that comes in blocks (C, n), in order and of `total` samples altogether.

    Each channel is separated by itself, with the same noise. The noise of a place is a function of the seed and the place, so
    segments agree where they overlap. S is what the separator keeps for each query (Q, D), the queries one after the other.

    Args:
        separator: the model.
        blocks: at its rate, and at the level that it knows.
        total: samples of each channel.
        queries: what to extract, None for a model that takes none.
        segments: how to cut.
        seed: of the noise.
        batch: segments that the model sees at once.
        advance: told how many samples are done, whenever some are.
    """
    starts = segments.starts(total)
    windows = _windows(blocks, starts, segments.length)
    added: Tensor | None = None
    for begin in range(0, len(starts), batch):
        places = starts[begin : begin + batch]
        found = _extracted(separator, [next(windows) for _ in places], places, queries, seed)
        for index, stems in enumerate(found, begin):
            if added is None:
                added, weight = torch.zeros_like(stems), stems.new_zeros(segments.length)
            if separator.unordered:
                stems = aligned(stems, added / weight.clamp(min=1e-6) if index else stems[:1].expand_as(stems))
            fade = segments.fade(index == 0, index == len(starts) - 1)
            added, weight = added + stems * fade, weight + fade
            done = (starts[index + 1] if index + 1 < len(starts) else total) - starts[index]
            yield added[..., :done] / weight[:done]
            advance(done)
            added = torch.nn.functional.pad(added[..., done:], (0, done))
            weight = torch.nn.functional.pad(weight[done:], (0, done))


def _windows(blocks: Iterable[Tensor], starts: list[int], length: int) -> Iterator[Tensor]:
    """The segments (C, length) of a signal, zeros after its end."""
    source, held, first = iter(blocks), None, 0
    for start in starts:
        if held is not None:
            held, first = held[:, start - first :], start
        while held is None or held.shape[1] < length:
            block = next(source, None)
            if block is None:
                break
            held = block if held is None else torch.cat((held, block), dim=1)
        if held is None:
            return
        yield torch.nn.functional.pad(held[:, :length], (0, max(0, length - held.shape[1])))


def _extracted(
    separator: Separator, windows: list[Tensor], places: list[int], queries: Tensor | None, seed: int
) -> Tensor:
    """Stems (n, C, S, T) of n windows (C, T). Digital silence is not asked about, and like channels are asked about once."""
    frames = 1 + windows[0].shape[1] // separator.hop
    noise = torch.stack([place_noise(seed, place // separator.hop, frames, separator.noise_shape) for place in places])
    count = 1 if queries is None else len(queries)
    stems = windows[0].new_zeros(len(windows), windows[0].shape[0], count, separator.kept, windows[0].shape[1])
    for channel in range(stems.shape[1]):
        mixture = torch.stack([window[channel] for window in windows])
        like = [other for other in range(channel) if all(torch.equal(w[other], w[channel]) for w in windows)]
        if like:
            stems[:, channel] = stems[:, like[0]]
            continue
        # Channels go through the model one by one: a row's place in a batch may change its last digits.
        audible = mixture.abs().amax(dim=1) > 0
        if audible.any():
            heard, chance = mixture[audible], noise[audible]
            asked = None if queries is None else queries.repeat(len(heard), 1)
            each = heard.repeat_interleave(count, dim=0)
            found = separator.extract(each, asked, chance.repeat_interleave(count, dim=0)).to(mixture)
            found = consistent(found, each)[:, : separator.kept]
            stems[audible, channel] = found.reshape(len(heard), count, *found.shape[1:])
    return stems.flatten(2, 3)


def place_noise(seed: int, first: int, frames: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (*shape, frames) of the frames from `first` on: the same for a frame, whatever is asked with it."""
    blocks = []
    for block in range(first // NOISE_BLOCK, (first + frames - 1) // NOISE_BLOCK + 1):
        digest = hashlib.blake2b(f"{seed} {block}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
        blocks.append(torch.randn(*shape, NOISE_BLOCK, generator=generator))
    offset = first % NOISE_BLOCK
    return torch.cat(blocks, dim=-1)[..., offset : offset + frames]


def consistent(stems: Tensor, mixture: Tensor) -> Tensor:
    """The nearest stems (..., K, T) that sum to the mixture (..., T): s_k + (y - sum of s) / K."""
    return stems + ((mixture - stems.sum(dim=-2)) / stems.shape[-2]).unsqueeze(-2)


def aligned(stems: Tensor, reference: Tensor) -> Tensor:
    """Stems (C, K, T), those of each channel in the order in which they are most like a reference (C, K, T)."""
    likeness = torch.einsum("ckt,cjt->ckj", reference, stems)
    orders = [linear_sum_assignment(channel.numpy(), maximize=True)[1] for channel in likeness]
    return torch.stack([channel[torch.from_numpy(order)] for channel, order in zip(stems, orders, strict=True)])
