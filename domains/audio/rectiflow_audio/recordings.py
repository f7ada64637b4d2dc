"""What a labelled set of sound files is: a line a recording, splits that share nothing, and who made what."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

MANIFEST = "manifest.csv"
ATTRIBUTION = "ATTRIBUTION.md"
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
_ONE_IN = 10


@dataclass(frozen=True)
class Recording:
    """One line of a manifest: a file, what is heard in it, where it is from and which split it belongs to.

    path is relative to the manifest; recordings of one group (a speaker, a kit, an animal) are in one split.
    """

    path: str
    kind: str
    group: str
    split: str
    seconds: float
    package: str = ""
    version: str = ""
    licence: str = ""


def assign_splits(recordings: Sequence[Recording], later: Sequence[str] = ()) -> list[Recording]:
    """The same recordings with a split each: of every kind a tenth of the groups validation and test, the rest to train on.

    Groups of a kind are laid in a row, package after package and within a package in an order that depends on names alone; of
    every ten in a row the first is for validation and the second for test, so that what is held out comes from all packages as
    what is trained on does. Where a kind has fewer than five groups, every recording is a group.

    later: packages that joined a set that was divided before, in the order in which they came; their groups are laid at the end
    of the row, so that what was held out stays so, and a recording whose group was there before goes with it.
    """
    ranks = {package: rank for rank, package in enumerate(later, start=1)}
    assigned: list[Recording] = []
    for kind in sorted({recording.kind for recording in recordings}):
        members = sorted(
            (recording for recording in recordings if recording.kind == kind),
            key=lambda one: (ranks.get(one.package, 0), one.path),
        )
        by_file = len({recording.group for recording in members}) < 5
        groups: dict[str, list[Recording]] = {}
        for recording in members:
            groups.setdefault(recording.path if by_file else recording.group, []).append(recording)
        packages = {name: together[0].package for name, together in groups.items()}
        row = sorted(
            groups, key=lambda name: (ranks.get(packages[name], 0), packages[name], _shuffled(f"{kind}/{name}"))
        )
        for place, name in enumerate(row):
            split = ("validation", "test", *["train"] * (_ONE_IN - 2))[place % _ONE_IN]
            assigned += [replace(recording, split=split) for recording in groups[name]]
    return sorted(assigned, key=lambda recording: recording.path)


def _shuffled(name: str) -> str:
    """A key that sorts names in no order of theirs."""
    return hashlib.sha256(name.encode()).hexdigest()


def write_manifest(recordings: Sequence[Recording], path: Path) -> None:
    """Write recordings as a table with a header."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Recording)])
        writer.writeheader()
        writer.writerows(asdict(recording) for recording in recordings)


def table(recordings: Sequence[Recording]) -> list[str]:
    """Lines that say how much there is of each kind."""
    lines = [f"{'kind':<12}{'recordings':>11}{'groups':>8}{'minutes':>9}{'validation':>12}{'test':>6}"]
    for kind in sorted({recording.kind for recording in recordings}):
        members = [recording for recording in recordings if recording.kind == kind]
        splits = Counter(recording.split for recording in members)
        minutes = sum(recording.seconds for recording in members) / 60
        groups = len({recording.group for recording in members})
        lines.append(
            f"{kind:<12}{len(members):>11}{groups:>8}{minutes:>9.1f}{splits['validation']:>12}{splits['test']:>6}"
        )
    return lines


def write_attribution(recordings: Sequence[Recording], path: Path, changes: str, authors: str) -> None:
    """Write which packages recordings come from, with their licences, what was done to them and who made them."""
    rows = sorted({(recording.package, recording.version, recording.licence) for recording in recordings})
    counts = Counter(recording.package for recording in recordings)
    lines = ["# Where these sounds come from", "", changes, ""]
    lines += ["| package | version | recordings | licence |", "|---|---|---|---|"]
    lines += [f"| {name} | {version} | {counts[name]} | {licence} |" for name, version, licence in rows]
    lines += ["", authors, ""]
    path.write_text("\n".join(lines), encoding="utf-8")
