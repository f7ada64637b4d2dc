"""Sounds out of files: a folder with a sub-folder a kind, or a manifest that says what each file is."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_audio.captions import REAL, REAL_PARAPHRASES, from_name
from rectiflow_audio.excerpts import Clip, audible_excerpt, open_clip, random_excerpt, varied_excerpt
from rectiflow_audio.recordings import MANIFEST, SUFFIXES, Recording, assign_splits
from rectiflow_audio.sounds import SPLITS, checked_split

_log = logging.getLogger(__name__)
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class LibrarySounds:
    """Sounds of the user's own, read excerpt by excerpt, so that a library of any size takes no memory.

    path: a folder with one sub-folder of sound files a kind, or with a `manifest.csv`, or the manifest itself (columns path,
    kind and, if there are, group and split; paths relative to it). Without a split files are assigned by group, about
    80 : 10 : 10; a kind of fewer than three files is split in time instead. Files that cannot be read are named in a warning
    and left out.

    speed: semitones by which excerpts to train on are played faster or slower at most; tone: dB by which they are coloured at
    most, by a smooth curve over frequency. Their polarity is then random too. A few minutes of sound are otherwise soon known
    by heart.

    Raises:
        ConfigError: a speed below 0 or above 12, or a tone below 0 or above 24.
        DataError: no such folder or manifest, a manifest without its columns or with unknown splits, fewer than two kinds, or
            a kind without a readable file.
    """

    def __init__(self, path: str | Path, speed: float = 0.0, tone: float = 0.0) -> None:
        if not 0 <= speed <= 12:
            raise ConfigError(f"data.speed={speed} is not allowed: 0 to 12 semitones")
        if not 0 <= tone <= 24:
            raise ConfigError(f"data.tone={tone} is not allowed: 0 to 24 dB")
        self.speed, self.tone = speed, tone
        root = Path(path).expanduser()
        listed, readable = _read(root)
        wanted = sorted({recording.kind for recording in listed})
        self.kinds = tuple(kind for kind in wanted if any(recording.kind == kind for recording, _ in readable))
        if len(self.kinds) < 2 or len(self.kinds) < len(wanted):
            lacking = ", ".join(kind for kind in wanted if kind not in self.kinds) or "none"
            raise DataError(
                f"{root} has readable sounds of {len(self.kinds)} kinds (without any: {lacking}); "
                "it needs two or more kinds, each with a file that can be read: add files or delete the folder"
            )
        self._clips = _split(readable)

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """A random excerpt (samples,) of a random file; files that are too short are repeated with pauses.

        Raises:
            ConfigError: an unknown kind or split.
            DataError: a file went away, or many excerpts in a row are silent.
        """
        if kind not in self.kinds:
            raise ConfigError(
                f"there is no kind {kind!r} in the library; there are {', '.join(self.kinds)}: name one of them"
            )
        clips = self._clips[checked_split(split), kind]

        def cut(clip: Clip) -> Tensor:
            if split == "train" and (self.speed or self.tone):
                return varied_excerpt(clip, samples, self.speed, self.tone, generator)
            return random_excerpt(clip, samples, generator)

        return audible_excerpt(clips, cut, kind, generator)

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """Phrases that ask for a kind: written ones for the kinds of real-sounds, else made from its name."""
        if kind in REAL:
            return (REAL_PARAPHRASES if held_out else REAL)[kind]
        return from_name(kind)[1 if held_out else 0]


def read_recordings(path: str | Path, kind: str) -> list[tuple[Recording, Clip]]:
    """The recordings of one kind of a library that can be read, each with its split; those that cannot are named in a warning.

    Raises:
        DataError: see `LibrarySounds`; or nothing of this kind.
    """
    root = Path(path).expanduser()
    listed, readable = _read(root)
    clips = {recording.path: clip for recording, clip in readable if recording.kind == kind}
    members = [recording for recording, _ in readable if recording.kind == kind]
    if not members:
        kinds = ", ".join(sorted({recording.kind for recording in listed}))
        raise DataError(f"{root} has no readable sound of kind {kind!r}; there are {kinds}: set data.kind")
    assigned = members if all(recording.split for recording in members) else assign_splits(members)
    return [(recording, clips[recording.path]) for recording in assigned]


def _read(root: Path) -> tuple[list[Recording], list[tuple[Recording, Clip]]]:
    """What a library lists, and what of it can be read."""
    listed, base = _listed(root)
    readable, skipped = [], []
    for recording in listed:
        found = open_clip(base / recording.path)
        if isinstance(found, str):
            skipped.append(f"{recording.path} ({found})")
        else:
            readable.append((recording, found))
    if skipped:
        shown = "; ".join(skipped[:8]) + (f" and {len(skipped) - 8} more" if len(skipped) > 8 else "")
        _log.warning("left out %d of %d files of %s: %s", len(skipped), len(listed), root, shown)
    return listed, readable


def _listed(root: Path) -> tuple[list[Recording], Path]:
    """What a library says that it holds, and the folder its paths start from."""
    manifest = root if root.suffix == ".csv" else root / MANIFEST
    if manifest.is_file():
        return list(_rows(manifest)), manifest.parent
    if not root.is_dir():
        raise DataError(f"{root} is neither a folder nor a manifest (csv); check data.path")
    found = [
        Recording(file.relative_to(root).as_posix(), folder.name, file.relative_to(root).as_posix(), "", 0.0)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(
            f"{root} has no sub-folders with sound files ({', '.join(SUFFIXES)}); it needs one sub-folder a kind of sound, "
            f"or a {MANIFEST}: check data.path"
        )
    return found, root


def _rows(manifest: Path) -> Iterator[Recording]:
    try:
        with manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{manifest} cannot be read: {error}; it must be a table in UTF-8: write it again") from error
    if not rows or not {"path", "kind"} <= set(rows[0]):
        raise DataError(
            f"{manifest} has the columns {', '.join(rows[0]) if rows else '(no rows)'}; "
            "it needs rows with path and kind, and may have group and split: add them"
        )
    for row in rows:
        split = row.get("split") or ""
        if split and split not in SPLITS:
            raise DataError(
                f"{manifest} puts {row['path']} into split {split!r}; there are {', '.join(SPLITS)}: correct it"
            )
        yield Recording(row["path"], row["kind"], row.get("group") or row["path"], split, 0.0)


def _split(readable: list[tuple[Recording, Clip]]) -> dict[tuple[str, str], list[Clip]]:
    """What to draw from, by split and kind."""
    clips: dict[tuple[str, str], list[Clip]] = {}
    files = {recording.path: file for recording, file in readable}
    for kind in {recording.kind for recording, _ in readable}:
        members = [recording for recording, _ in readable if recording.kind == kind]
        assigned = members if all(recording.split for recording in members) else assign_splits(members)
        present = {recording.split for recording in assigned}
        for split in SPLITS:
            if present >= set(SPLITS):
                clips[split, kind] = [files[recording.path] for recording in assigned if recording.split == split]
            else:
                clips[split, kind] = [_part(files[recording.path], split) for recording in assigned]
    return clips


def _part(file: Clip, split: str) -> Clip:
    low, high = _SHARES[split]
    return replace(file, first=low * file.last, last=high * file.last)
