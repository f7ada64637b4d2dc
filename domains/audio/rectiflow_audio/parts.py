"""Mixtures that are to be taken apart altogether: several voices, or music into its stems."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.sounds import checked_split
from rectiflow_audio.synthesis import RATE

DrawParts = Callable[[int, str, torch.Generator], Tensor]
"""`draw(samples, split, generator)`: the stems (K, samples) of a new mixture."""


class PartsMixture(NamedTuple):
    """A mixture of which every part is wanted: waveforms (K, samples) that sum to it, and what they are."""

    parts: Tensor
    kinds: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What the first part is."""
        return self.kinds[0]

    @property
    def snr(self) -> float:
        """NaN: no part stands out."""
        return math.nan

    @property
    def caption(self) -> str:
        """Nothing: such mixtures are not asked about."""
        return ""


class Unasked:
    """The kinds of parts that nobody asks for: what `Sounds` says of them, but for sounds themselves."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """Nothing.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"there are no single sounds of kind {kind!r} here; use data=synthetic, real or library")

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """One empty phrase."""
        return ("",)


class PartsMixtures:
    """A numbered series of mixtures of K parts: number i depends on (seed, split, i) alone.

    draw: makes one; kinds: what its parts are; count: how many, None for endlessly many.

    Raises:
        ConfigError: mixtures shorter than a sample, or no mixture at all.
    """

    def __init__(
        self,
        draw: DrawParts,
        kinds: tuple[str, ...],
        seconds: float,
        seed: int = 0,
        *,
        count: int | None = None,
        split: str = "train",
    ) -> None:
        if not seconds * RATE >= 1 or (count is not None and count < 1):
            raise ConfigError(
                f"mixtures of {seconds} s, count {count}, were asked for; they must last a sample at least and the count be "
                "1 or more: check data.seconds and data.held_out"
            )
        self.draw = draw
        self.kinds = kinds
        self.samples = round(seconds * RATE)
        self.seed = seed
        self.count = count
        self.split = checked_split(split)

    def __len__(self) -> int:
        if self.count is None:
            raise ConfigError("endless mixtures have no length; give a count to have one")
        return self.count

    def __getitem__(self, index: int) -> PartsMixture:
        if self.count is not None and not 0 <= index < self.count:
            raise IndexError(f"mixture {index} of {self.count}")
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "parts", self.split, index))
        parts = self.draw(self.samples, self.split, generator)
        peak = float(torch.cat([parts, parts.sum(0, keepdim=True)]).abs().amax())
        return PartsMixture(parts * min(1.0, 0.99 / max(peak, 1e-9)), self.kinds)
