"""Resampling of a signal that comes in blocks, between any two rates.

`transforms.resample` does the same to a signal in memory, but its kernel grows with the product of the rates: 2.8 GB
for 44 101 Hz.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rectiflow_audio.transforms import LOWPASS_WIDTH, ROLLOFF

_KERNEL_LIMIT = 2**21
_CHUNK = 16384


def resampled(blocks: Iterable[Tensor], source: int, target: int) -> Iterator[Tensor]:
    """Blocks (C, n) at rate `source` as blocks at rate `target`; T samples become ceil(T target / source) in all.

    A Hann-windowed sinc, the same for every place of the signal: the result does not depend on how it was cut into blocks.
    """
    if source == target:
        yield from blocks
        return
    phases = _Phases.of(source, target)
    held, first, received, done = None, -phases.width, 0, 0  # `held` begins at input sample `first`
    for block in blocks:
        received += block.shape[-1]
        held = torch.cat((block.new_zeros(block.shape[0], phases.width) if held is None else held, block), dim=-1)
        ready = ((received - phases.width - 1) * phases.target - 1) // phases.source + 1
        ready -= ready % phases.period
        if ready > done:
            yield from phases.outputs(held, first, done, ready)
            done = ready
            keep = done * phases.source // phases.target - phases.width
            held, first = held[:, keep - first :], keep
    total = -(-received * phases.target // phases.source)
    if held is not None and total > done:
        yield from phases.outputs(functional.pad(held, (0, phases.reach + phases.source)), first, done, total)


@dataclass(frozen=True)
class _Phases:
    """Weights of the inputs around an output, which depend on the remainder of its place alone.

    Attributes:
        source: input rate, without the common divisor.
        target: output rate, likewise.
        width: inputs that count on each side.
        weights: (target, 2 width + 2), a row a remainder.
        kernel: the rows where they stand in a period of the input, (target, 1, at most source + reach); None when it would
            be too large.
    """

    source: int
    target: int
    width: int
    weights: Tensor
    kernel: Tensor | None

    @classmethod
    def of(cls, source: int, target: int) -> _Phases:
        """The weights for two rates."""
        divisor = math.gcd(source, target)
        source, target = source // divisor, target // divisor
        cutoff = min(source, target) * ROLLOFF
        width = math.ceil(LOWPASS_WIDTH * source / cutoff)
        offsets = torch.arange(-width, width + 2, dtype=torch.float64)
        place = torch.arange(target) * source
        turns = (offsets - (place % target)[:, None] / target) * cutoff / source
        turns = turns.clamp(-LOWPASS_WIDTH, LOWPASS_WIDTH)
        window = torch.cos(turns * math.pi / LOWPASS_WIDTH / 2).square()
        weights = (torch.sinc(turns) * window * cutoff / source).float()
        kernel = None
        columns = torch.div(place, target, rounding_mode="floor")[:, None] + torch.arange(len(offsets))
        if target * (source + len(offsets)) <= _KERNEL_LIMIT:
            kernel = weights.new_zeros(target, 1, int(columns[-1, -1]) + 1)
            kernel[:, 0].scatter_(1, columns, weights)
        return cls(source, target, width, weights, kernel)

    @property
    def reach(self) -> int:
        """Inputs that count for one output."""
        return 2 * self.width + 2

    @property
    def period(self) -> int:
        """Outputs are made in multiples of this, except for the last."""
        return 1 if self.kernel is None else self.target

    def outputs(self, held: Tensor, first: int, start: int, stop: int) -> Iterator[Tensor]:
        """Outputs `start`, a multiple of the period, to `stop` out of inputs (C, n) that begin at `first`."""
        if self.kernel is not None:
            begin = start // self.target * self.source - self.width - first
            periods = -(-(stop - start) // self.target)
            inputs = held[:, None, begin : begin + (periods - 1) * self.source + self.kernel.shape[-1]]
            yield functional.conv1d(inputs, self.kernel, stride=self.source).mT.flatten(1)[:, : stop - start]
            return
        windows = held.unfold(-1, self.reach, 1)
        for begin in range(start, stop, _CHUNK):
            place = torch.arange(begin, min(begin + _CHUNK, stop))
            nearest = torch.div(place * self.source, self.target, rounding_mode="floor")
            inputs = windows[:, nearest - self.width - first]
            yield torch.einsum("cjk,jk->cj", inputs, self.weights[place % self.target])


def regrouped(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same signal (C, n) in blocks of `size`, the last one shorter."""
    parts: list[Tensor] = []
    count = 0
    for block in blocks:
        parts.append(block)
        count += block.shape[-1]
        if count >= size:
            pieces = list(torch.split(torch.cat(parts, dim=-1), size, dim=-1))
            parts = [pieces.pop()] if pieces[-1].shape[-1] < size else []
            count = sum(part.shape[-1] for part in parts)
            yield from pieces
    if count:
        yield torch.cat(parts, dim=-1)
