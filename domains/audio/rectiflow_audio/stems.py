"""Music with its parts: folders of tracks in the layout of MUSDB18, one sound file a stem."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_audio.captions import from_name
from rectiflow_audio.excerpts import Clip, audible_excerpt, open_clip, random_excerpt, read_clip
from rectiflow_audio.recordings import SUFFIXES
from rectiflow_audio.sounds import checked_split
from rectiflow_audio.synthesis import RATE

_log = logging.getLogger(__name__)

MUSDB = ("vocals", "drums", "bass", "other")


class StemTracks:
    """Tracks in folders `train` and `test`, each track a folder with one file a stem (`vocals.wav`, `drums.wav`, …).

    A seventh of the training tracks, chosen by their names, are for validation. Tracks that lack a stem or hold one that cannot
    be read are named in a warning and left out. Stems serve as single sounds too: each is a kind, and mixing them at random
    across tracks makes more music than there is.

    path: the folder. stems: their names.

    Raises:
        ConfigError: fewer than two stems, or one twice.
        DataError: no such folder, or a split without a whole track.
    """

    def __init__(self, path: str | Path, stems: Sequence[str] = MUSDB) -> None:
        self.kinds = tuple(stems)
        if len(self.kinds) < 2 or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(
                f"stems are {', '.join(self.kinds)}; there must be two or more, all different: set data.stems"
            )
        root = Path(path).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{root} is not a folder; it must hold the folders train and test of tracks: check data.path"
            )
        self._tracks: dict[str, list[dict[str, Clip]]] = {"train": [], "validation": [], "test": []}
        skipped: list[str] = []
        for part in ("train", "test"):
            for folder in sorted(entry for entry in (root / part).glob("*") if entry.is_dir()):
                track = _track(folder, self.kinds)
                if isinstance(track, str):
                    skipped.append(f"{part}/{folder.name} ({track})")
                else:
                    self._tracks[_split(part, folder.name)].append(track)
        if skipped:
            shown = "; ".join(skipped[:8]) + (f" and {len(skipped) - 8} more" if len(skipped) > 8 else "")
            _log.warning("left out %d tracks of %s: %s", len(skipped), root, shown)
        if len(self._tracks["train"]) > 1 and not self._tracks["validation"]:
            self._tracks["validation"].append(self._tracks["train"].pop())
        lacking = [split for split, tracks in self._tracks.items() if not tracks]
        if lacking:
            raise DataError(
                f"{root} has no whole track for {', '.join(lacking)}; a track is a folder in train or test with the files "
                f"{', '.join(self.kinds)} ({SUFFIXES[0]} or another format): add tracks"
            )

    def together(self, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """The stems (K, samples) of a random excerpt of a random track, in step, so that they sum to the music."""
        tracks = self._tracks[checked_split(split)]
        track = tracks[int(torch.randint(len(tracks), (), generator=generator))]
        longest = max(clip.last for clip in track.values())
        start = max(0.0, longest - samples / RATE) * float(torch.rand((), generator=generator, dtype=torch.float64))
        return torch.stack([read_clip(track[kind], start, samples) for kind in self.kinds])

    def remixed(self, shuffled: float, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """The stems (K, samples) of a mixture: in step, but for a share `shuffled` of those to train on.

        These take every stem from a track of its own, at a level of its own within 5 dB either way.
        """
        if split != "train" or float(torch.rand((), generator=generator)) >= shuffled:
            return self.together(samples, split, generator)
        gains = 10 ** ((10 * torch.rand(len(self.kinds), generator=generator) - 5) / 20)
        return torch.stack(
            [self.draw(kind, samples, split, generator) * gain for kind, gain in zip(self.kinds, gains, strict=True)]
        )

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """A random excerpt (samples,) of one stem of a random track.

        Raises:
            ConfigError: an unknown stem or split.
            DataError: many excerpts in a row are silent, or a file went away.
        """
        if kind not in self.kinds:
            raise ConfigError(f"there is no stem {kind!r}; there are {', '.join(self.kinds)}: name one of them")
        clips = [track[kind] for track in self._tracks[checked_split(split)]]
        return audible_excerpt(clips, lambda clip: random_excerpt(clip, samples, generator), kind, generator)

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """Phrases that ask for a stem."""
        return from_name("other instruments" if kind == "other" else kind)[1 if held_out else 0]


def _track(folder: Path, stems: Sequence[str]) -> dict[str, Clip] | str:
    """The stems of a track, or why it cannot be used."""
    found = {}
    for stem in stems:
        files = [file for suffix in SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()]
        if not files:
            return f"no {stem}"
        clip = open_clip(files[0])
        if isinstance(clip, str):
            return f"{files[0].name}: {clip}"
        found[stem] = clip
    shortest = min(clip.last for clip in found.values())
    return {stem: replace(clip, last=shortest) for stem, clip in found.items()}


def _split(part: str, name: str) -> str:
    chosen = hashlib.sha256(name.encode()).digest()[0] % 7 == 0
    return "validation" if part == "train" and chosen else part
