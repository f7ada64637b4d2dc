"""Mixtures as the flow sees them: spectra of the stems, with the mixture and the query as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond
from rectiflow.cache import cache_folder
from rectiflow.conditions import take
from rectiflow.errors import ConfigError, DataError
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.library import LibrarySounds
from rectiflow_audio.mixing import MixtureItem, Mixtures, MixtureSeries
from rectiflow_audio.parts import DrawParts, PartsMixtures, Unasked
from rectiflow_audio.representation import Representation, to_level
from rectiflow_audio.sounds import PooledSounds, Sounds, SyntheticSounds
from rectiflow_audio.speakers import LibrarySpeakers, Speakers, SyntheticSpeakers, mixed_voices
from rectiflow_audio.stems import StemTracks
from rectiflow_audio.text import TextEncoder

EPOCH = 1 << 20
"""How many of the endless training mixtures count as an epoch."""
JITTER = 6.0
"""dB by which the level of a training mixture differs from `LEVEL`, either way."""
MOST_SPEAKERS = 5
"""Orders of so many stems are still tried one by one."""


@dataclass(frozen=True)
class Mixes:
    """Mixtures to train on and mixtures held out, of sounds that share no recording."""

    train: MixtureSeries
    held_out: MixtureSeries
    paraphrased: MixtureSeries
    sounds: Sounds


def synthetic(pool: float, **mixing: object) -> Mixes:
    """Mixtures of the built-in generator's sounds; `pool` seconds of each kind to train on, `mixing` as in `mixes`."""
    return mixes(PooledSounds(SyntheticSounds(), pool), **mixing)  # type: ignore[arg-type]


def library(path: str, speed: float = 0.0, tone: float = 0.0, **mixing: object) -> Mixes:
    """Mixtures of sounds of the user's own: a folder with a sub-folder a kind, or a manifest; `mixing` as in `mixes`.

    Raises:
        ConfigError, DataError: see `LibrarySounds`.
    """
    return mixes(LibrarySounds(path, speed, tone), **mixing)  # type: ignore[arg-type]


def real(speed: float = 0.0, tone: float = 0.0, **mixing: object) -> Mixes:
    """Mixtures of the fetched real sounds; `mixing` as in `mixes`.

    Raises:
        DataError: they are not in the cache.
    """
    folder = cache_folder("audio") / "real-sounds"
    if not folder.is_dir():
        raise DataError(f"the real sounds are not in {folder}; run: rectiflow fetch audio real-sounds")
    return library(str(folder), speed, tone, **mixing)


def tracks(path: str, stems: Sequence[str], **mixing: object) -> Mixes:
    """Mixtures of the stems of music, at random across tracks, each asked for by its name; `mixing` as in `mixes`.

    Raises:
        DataError: see `StemTracks`.
    """
    return mixes(StemTracks(path, stems), **mixing)  # type: ignore[arg-type]


def speakers(path: str, kind: str, speakers: int, pool: float, snr: Sequence[float], **series: Any) -> Mixes:
    """Mixtures of several voices, none of which is asked for; see `SpeakersSettings`.

    Raises:
        ConfigError: fewer than two speakers, or more than there are.
        DataError: see `LibrarySpeakers`.
    """
    if not 2 <= speakers <= MOST_SPEAKERS:
        raise ConfigError(f"data.speakers={speakers} is not allowed: 2 to {MOST_SPEAKERS}")
    voices: Speakers = LibrarySpeakers(path, kind) if path else SyntheticSpeakers(pool)
    draw = partial(mixed_voices, voices, speakers, (float(snr[0]), float(snr[1])))
    return _in_parts(draw, (kind,) * speakers, **series)


def fixed_stems(path: str, stems: Sequence[str], shuffled: float, **series: Any) -> Mixes:
    """Mixtures of all stems of music, none of which is asked for; see `FixedStemsSettings`.

    Raises:
        ConfigError: a share `shuffled` outside [0, 1], or see `StemTracks`.
        DataError: see `StemTracks`.
    """
    if not 0 <= shuffled <= 1:
        raise ConfigError(f"data.shuffled={shuffled} is not allowed: a share in [0, 1]")
    return _in_parts(partial(StemTracks(path, stems).remixed, shuffled), tuple(stems), **series)


def _in_parts(draw: DrawParts, kinds: tuple[str, ...], *, seconds: float, held_out: int, seed: int, text: str) -> Mixes:
    """Endless training mixtures and `held_out` others; the encoder `text` has nothing to say here."""
    kept = PartsMixtures(draw, kinds, seconds, seed, count=held_out, split="validation")
    return Mixes(PartsMixtures(draw, kinds, seconds, seed), kept, kept, Unasked(tuple(dict.fromkeys(kinds))))


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
    overlap: bool = True,
) -> Mixes:
    """Endless training mixtures and `held_out` others; see `MixingSettings`. The encoder `text` is not looked at here."""
    rules: dict[str, Any] = {
        "voices": (int(voices[0]), int(voices[1])),
        "snr_range": (float(snr[0]), float(snr[1])),
        "seed": seed,
        "targets": tuple(targets),
        "overlap": overlap,
    }
    kept = {"count": held_out, "split": "validation", **rules}
    return Mixes(
        Mixtures(sounds, seconds, absent=absent, **rules),
        Mixtures(sounds, seconds, **kept),
        Mixtures(sounds, seconds, held_out=True, **kept),
        sounds,
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
    """Training mixtures by number, as batches of states x1 (B, K, ...) with `waves` (B, K, T) beside them."""

    def __init__(self, mixtures: MixtureSeries, spectra: Representation, captions: Captions) -> None:
        self.mixtures = mixtures
        self.spectra = spectra
        self.captions = captions

    def __len__(self) -> int:
        return EPOCH

    def __getitems__(self, indices: list[int]) -> Batch:
        """The mixtures with these numbers, each at a level of its own."""
        chosen = [self.mixtures[index] for index in indices]
        waves = jittered(stems(chosen), self.mixtures.seed, indices)
        x1, heard = encoded(waves, self.spectra)
        cond = {**heard, **self.captions([mixture.caption for mixture in chosen])}
        return Batch(x1=x1, cond=cond, extra={"waves": waves})


class Waves:
    """Mixtures by number, as batches of the waveforms of their stems: x1 (B, K, T)."""

    def __init__(self, mixtures: MixtureSeries) -> None:
        self.mixtures = mixtures

    def __len__(self) -> int:
        return self.mixtures.count or EPOCH

    def __getitems__(self, indices: list[int]) -> Batch:
        """The mixtures with these numbers, each at a level of its own."""
        chosen = [self.mixtures[index] for index in indices]
        return Batch(x1=jittered(stems(chosen), self.mixtures.seed, indices))


class HeldOut:
    """Mixtures of one series, all of them made once: `waves` (count, K, T) of their stems at `LEVEL`, and what was asked for."""

    def __init__(self, mixtures: MixtureSeries, spectra: Representation, captions: Captions) -> None:
        self.mixtures = mixtures
        self.spectra = spectra
        self.captions = captions

    @cached_property
    def items(self) -> list[MixtureItem]:
        """The mixtures."""
        return [self.mixtures[index] for index in range(len(self.mixtures))]

    @cached_property
    def waves(self) -> Tensor:
        """The stems of each."""
        return stems(self.items)

    def conditions(self, numbers: Tensor) -> Cond:
        """What the flow is told of the mixtures with these numbers (B,), and `item`, the numbers."""
        heard = self.spectra.hear(self.waves[numbers].sum(1))
        asked = self.captions([self.items[number].caption for number in numbers.tolist()])
        return {**heard, **asked, "item": numbers}


def stems(mixtures: Sequence[MixtureItem]) -> Tensor:
    """Stems (B, K, T) of mixtures, brought to `LEVEL` together."""
    waves = torch.stack([mixture.parts for mixture in mixtures])
    return waves * to_level(waves.sum(1))[:, None]


def jittered(waves: Tensor, seed: int, numbers: Sequence[int]) -> Tensor:
    """Stems (B, K, T) of the mixtures with these numbers, each mixture louder or softer by up to `JITTER` dB."""
    gains = []
    for number in numbers:
        generator = torch.Generator().manual_seed(stream_seed(seed, "level", number))
        gains.append(10 ** (JITTER * (2 * torch.rand((), generator=generator) - 1) / 20))
    return waves * torch.stack(gains)[:, None, None]


def encoded(waves: Tensor, spectra: Representation) -> tuple[Tensor, Cond]:
    """States (B, K, ...) of stems (B, K, T), and what a flow is told of their sum."""
    return spectra.encode(waves), spectra.hear(waves.sum(1))
