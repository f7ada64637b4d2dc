"""Mixtures as the flow sees them: spectra of the stems, with the mixture and the query as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond
from rectiflow.cache import cache_folder
from rectiflow.conditions import take
from rectiflow.errors import DataError
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.library import LibrarySounds
from rectiflow_audio.mixing import Mixture, Mixtures
from rectiflow_audio.representation import Spectra, to_level
from rectiflow_audio.sounds import PooledSounds, Sounds, SyntheticSounds
from rectiflow_audio.stems import StemTracks
from rectiflow_audio.text import TextEncoder

EPOCH = 1 << 20
"""How many of the endless training mixtures count as an epoch."""
JITTER = 6.0
"""dB by which the level of a training mixture differs from `LEVEL`, either way."""


@dataclass(frozen=True)
class Mixes:
    """Mixtures to train on and mixtures held out, of sounds that share no recording."""

    train: Mixtures
    held_out: Mixtures
    paraphrased: Mixtures

    @property
    def sounds(self) -> Sounds:
        """The single sounds."""
        return self.train.sounds


def synthetic(pool: float, **mixing: object) -> Mixes:
    """Mixtures of the built-in generator's sounds; `pool` seconds of each kind to train on, `mixing` as in `mixes`."""
    return mixes(PooledSounds(SyntheticSounds(), pool), **mixing)  # type: ignore[arg-type]


def library(path: str, speed: float = 0.0, **mixing: object) -> Mixes:
    """Mixtures of sounds of the user's own: a folder with a sub-folder a kind, or a manifest; `mixing` as in `mixes`.

    Raises:
        ConfigError, DataError: see `LibrarySounds`.
    """
    return mixes(LibrarySounds(path, speed), **mixing)  # type: ignore[arg-type]


def real(speed: float = 0.0, **mixing: object) -> Mixes:
    """Mixtures of the fetched real sounds; `mixing` as in `mixes`.

    Raises:
        DataError: they are not in the cache.
    """
    folder = cache_folder("audio") / "real-sounds"
    if not folder.is_dir():
        raise DataError(f"the real sounds are not in {folder}; run: rectiflow fetch audio real-sounds")
    return library(str(folder), speed, **mixing)


def tracks(path: str, stems: Sequence[str], **mixing: object) -> Mixes:
    """Mixtures of the stems of music, at random across tracks, each asked for by its name; `mixing` as in `mixes`.

    Raises:
        DataError: see `StemTracks`.
    """
    return mixes(StemTracks(path, stems), **mixing)  # type: ignore[arg-type]


def mixes(
    sounds: Sounds,
    *,
    seconds: float,
    voices: Sequence[int],
    snr: Sequence[float],
    absent: float,
    held_out: int,
    seed: int,
    text: str,
    targets: Sequence[str],
) -> Mixes:
    """Endless training mixtures and `held_out` others; see `MixingSettings`. The encoder `text` is not looked at here."""
    rules: dict[str, Any] = {
        "voices": (int(voices[0]), int(voices[1])),
        "snr_range": (float(snr[0]), float(snr[1])),
        "seed": seed,
    }
    rules["targets"] = tuple(targets)
    kept = {"count": held_out, "split": "validation", **rules}
    return Mixes(
        Mixtures(sounds, seconds, absent=absent, **rules),
        Mixtures(sounds, seconds, **kept),
        Mixtures(sounds, seconds, held_out=True, **kept),
    )


class Captions:
    """What a network is told of captions, each encoded once: the query, and its `tokens` if it is to be told the words."""

    def __init__(self, text: TextEncoder, sounds: Sounds, tokens: bool = False) -> None:
        phrases = [
            phrase for kind in sounds.kinds for held_out in (False, True) for phrase in sounds.captions(kind, held_out)
        ]
        self.rows = {phrase: row for row, phrase in enumerate(dict.fromkeys(phrases))}
        self.table = told(text, list(self.rows), tokens)

    def __call__(self, captions: Sequence[str]) -> Cond:
        """Conditions (B, ...) of captions that the sounds have."""
        return take(self.table, torch.tensor([self.rows[caption] for caption in captions]))


def told(text: TextEncoder, texts: Sequence[str], tokens: bool) -> Cond:
    """Texts as conditions: query (B, D), and with `tokens` the words' vectors tokens (B, M, D) and tokens_mask (B, M)."""
    encoded = text.encode(list(texts))
    words = {"tokens": encoded.tokens, "tokens_mask": encoded.mask} if tokens else {}
    return {"query": encoded.pooled, **words}


class TrainingMixtures:
    """Training mixtures by number, as batches of x1 (B, 2, 2, F, N) with `waves` (B, 2, T) beside them."""

    def __init__(self, mixtures: Mixtures, spectra: Spectra, captions: Captions) -> None:
        self.mixtures = mixtures
        self.spectra = spectra
        self.captions = captions

    def __len__(self) -> int:
        return EPOCH

    def __getitems__(self, indices: list[int]) -> Batch:
        """The mixtures with these numbers, each at a level of its own."""
        chosen = [self.mixtures[index] for index in indices]
        waves = stems(chosen) * torch.stack([self._jitter(index) for index in indices])[:, None, None]
        x1, mixture = encoded(waves, self.spectra)
        cond = {"mixture": mixture, **self.captions([mixture.caption for mixture in chosen])}
        return Batch(x1=x1, cond=cond, extra={"waves": waves})

    def _jitter(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(self.mixtures.seed, "level", index))
        return 10 ** (JITTER * (2 * torch.rand((), generator=generator) - 1) / 20)


class HeldOut:
    """Mixtures of one series, all of them made once: `waves` (count, 2, T) of their stems at `LEVEL`, and what was asked for."""

    def __init__(self, mixtures: Mixtures, spectra: Spectra, captions: Captions) -> None:
        self.mixtures = mixtures
        self.spectra = spectra
        self.captions = captions

    @cached_property
    def items(self) -> list[Mixture]:
        """The mixtures."""
        return [self.mixtures[index] for index in range(len(self.mixtures))]

    @cached_property
    def waves(self) -> Tensor:
        """Target and residual of each."""
        return stems(self.items)

    def conditions(self, numbers: Tensor) -> Cond:
        """What the flow is told of the mixtures with these numbers (B,), and `item`, the numbers."""
        mixture = self.spectra.encode(self.waves[numbers].sum(1))[:, None]
        asked = self.captions([self.items[number].caption for number in numbers.tolist()])
        return {"mixture": mixture, **asked, "item": numbers}


def stems(mixtures: Sequence[Mixture]) -> Tensor:
    """Target and residual (B, 2, T) of mixtures, brought to `LEVEL` together."""
    waves = torch.stack([torch.stack([mixture.target, mixture.residual]) for mixture in mixtures])
    return waves * to_level(waves.sum(1))[:, None]


def encoded(waves: Tensor, spectra: Spectra) -> tuple[Tensor, Tensor]:
    """Spectra (B, K, 2, F, N) of stems (B, K, T), and (B, 1, 2, F, N) of their sum."""
    both = spectra.encode(torch.cat([waves, waves.sum(1, keepdim=True)], dim=1))
    return both[:, :-1], both[:, -1:]
