"""Voices by speaker, so that a mixture never holds the same one twice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_audio.excerpts import Clip, audible_excerpt, random_excerpt
from rectiflow_audio.library import read_recordings
from rectiflow_audio.sounds import PooledSounds, SyntheticSounds
from rectiflow_audio.synthesis import levelled

_LEVEL = 0.1  # root mean square of the loudest voice


class Speakers(Protocol):
    """Voices in three splits that share no speaker."""

    def voices(self, count: int, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """Excerpts (count, samples) of as many different speakers, none silent."""
        ...


class SyntheticSpeakers:
    """The built-in generator's babble: every clip of its pool is a speaker of its own, and held-out ones are new.

    pool: seconds to train on, in clips of two.

    Raises:
        ConfigError: fewer seconds than one clip.
    """

    def __init__(self, pool: float) -> None:
        self.sounds = PooledSounds(SyntheticSounds(["speech"]), pool)

    def voices(self, count: int, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """Excerpts (count, samples) of different speakers."""
        return self.sounds.different("speech", count, samples, split, generator)


class LibrarySpeakers:
    """Speakers out of files: the groups of one kind of a library, see `library.LibrarySounds`.

    path: folder or manifest; kind: which of its kinds holds the voices.

    Raises:
        DataError: no such library or kind in it, or a split with fewer than two speakers.
    """

    def __init__(self, path: str | Path, kind: str) -> None:
        by_split: defaultdict[str, defaultdict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
        for recording, clip in read_recordings(path, kind):
            by_split[recording.split][recording.group].append(clip)
        self.kind = kind
        self.speakers = {split: list(groups.values()) for split, groups in by_split.items()}
        lacking = [split for split in ("train", "validation") if len(self.speakers.get(split, [])) < 2]
        if lacking:
            raise DataError(
                f"{path} has fewer than two speakers of kind {kind!r} for {', '.join(lacking)}; recordings of one speaker share "
                "a group: add a column group to the manifest, or speakers"
            )

    def voices(self, count: int, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """Excerpts (count, samples) of different speakers.

        Raises:
            ConfigError: more speakers than there are.
            DataError: a file went away, or many excerpts in a row are silent.
        """
        speakers = self.speakers.get(split, [])
        if count > len(speakers):
            raise ConfigError(f"data.speakers={count} is not allowed: there are {len(speakers)} speakers for {split}")
        chosen = torch.randperm(len(speakers), generator=generator)[:count].tolist()
        return torch.stack([self._excerpt(speakers[number], samples, generator) for number in chosen])

    def _excerpt(self, clips: list[Clip], samples: int, generator: torch.Generator) -> Tensor:
        return audible_excerpt(clips, lambda clip: random_excerpt(clip, samples, generator), self.kind, generator)


def mixed_voices(
    speakers: Speakers, count: int, snr: tuple[float, float], samples: int, split: str, generator: torch.Generator
) -> Tensor:
    """Stems (count, samples) of a mixture of voices, each after the first `snr` dB (from, to) above it."""
    found = speakers.voices(count, samples, split, generator)
    gains = snr[0] + (snr[1] - snr[0]) * torch.rand(count, generator=generator)
    gains[0] = 0
    loudest = float(gains.amax())
    return torch.stack(
        [
            levelled(voice, _LEVEL) * 10 ** ((float(gain) - loudest) / 20)
            for voice, gain in zip(found, gains, strict=True)
        ]
    )
