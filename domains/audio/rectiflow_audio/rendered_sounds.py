"""A labelled set of sounds out of two Python packages, for systems without Debian's: fewer kinds, and rendered, not recorded."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import DataError
from rectiflow.fetch import Package, fetch_package, place, provenance, say
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.arranging import band, drumming, effect, melody
from rectiflow_audio.espeak import Speaking
from rectiflow_audio.files import write
from rectiflow_audio.real_packages import SOUNDFONT
from rectiflow_audio.recordings import (
    ATTRIBUTION,
    MANIFEST,
    Recording,
    assign_splits,
    table,
    write_attribution,
    write_manifest,
)
from rectiflow_audio.soundfont import SoundFont, read_soundfont
from rectiflow_audio.synthesis import RATE, integer

NOTES = Package(
    registry="pip",
    name="pretty-midi",
    version="0.2.11.post0",
    sha256="a3e2321736245a9c92259716d85a4762f16b7bde2f591fb0dba95bdb6e793d8a",
    licence="GPL-2 (the SoundFont TimGM6mb), MIT (the package)",
    attribution="TimGM6mb, a SoundFont by Tim Brechbill, as carried by pretty_midi",
    wanted=("pretty_midi/TimGM6mb.sf2",),
    largest=16 << 20,
)
_SPEECH_WHEELS = {
    ("Linux", "x86_64"): "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
    ("Darwin", "arm64"): "d27cdca31112226e7299d8562e889d3e38a1e48055c9ee381b45d669072ee59f",
    ("Windows", "AMD64"): "41f1e08ac9deda2efd1ea9de0b81dab9f5ae3c4b24284f76533d0a7b1dd7abd7",
}
_SPEECH_LICENCE = "GPL-3+ (eSpeak NG)"
DRUM_KITS = (0, 8, 16, 24, 25, 32, 40, 48)
GUITARS = (24, 25, 26, 27, 28, 29, 30, 31, 33, 34, 35, 36)
INSTRUMENTS = (
    *(0, 6, 8, 11, 12, 13, 14, 15, 19, 20, 21, 22, 40, 41, 42, 43, 45, 46, 56, 57, 58, 59, 60, 64, 65, 66, 67),
    *(68, 69, 70, 71, 72, 73, 74, 75, 77, 79, 104, 105, 107, 108, 109, 111),
)
PIECES = 60
EFFECTS = (116, 119, 122, 124, 125, 126, 127)
VOICES = tuple(
    f"{accent}+{variant}"
    for accent in ("en", "en-us", "en-gb-scotland")
    for variant in ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
)
_WORDS = (
    ("the neighbour", "my sister", "an old sailor", "nobody here", "the new teacher", "every child", "our train"),
    ("has seen", "will bring", "never forgets", "likes to describe", "was looking for", "asked about", "can repair"),
    (
        "a yellow bicycle",
        "three small boats",
        "the garden gate",
        "that long letter",
        "the winter road",
        "some fresh bread",
    ),
    ("before the rain came", "in the middle of the night", "without a word", "at half past seven", "again and again"),
)
Piece = tuple[str, str, Tensor]
"""Kind, group and waveform (T,)."""


def fetch_rendered_sounds(folder: Path | None = None) -> Path:
    """Place the set in the cache and return its folder, `rendered-sounds` by default; 16 MB of downloads.

    Raises:
        MissingDependency: pip is not installed beside this Python.
        DataError: the SoundFont cannot be had or read.
        StorageError: the cache cannot be written.
    """

    def fill(target: Path) -> dict[str, str]:
        say("drums, guitar, instrument, music and everyday by a SoundFont, speech by eSpeak NG: rendered, not recorded")
        font = read_soundfont(fetch_package(NOTES) / NOTES.wanted[0])
        recordings = _written(_played(font), NOTES.name, NOTES.version, NOTES.licence, target)
        packages = [NOTES]
        try:
            speech = _speech_package()
            speaking = Speaking(fetch_package(speech) / "espeakng_loader")
            recordings += _written(_spoken(speaking), speech.name, speech.version, _SPEECH_LICENCE, target)
            speaking.close()
            packages.append(speech)
        except DataError as error:
            say(f"going on without speech: {error}")
        recordings = assign_splits(recordings)
        write_manifest(recordings, target / MANIFEST)
        record = provenance(*packages)
        changes = "Rendered: pieces played at random on the notes of the one, sentences spoken by the other."
        write_attribution(recordings, target / ATTRIBUTION, changes, f"{record['attribution']}.")
        for line in table(recordings):
            say(line)
        return record

    return place(folder or cache_folder("audio") / "rendered-sounds", fill)


def played_notes(package: Path, folder: Path) -> list[Recording]:
    """Guitars and other instruments played on the notes of Debian's SoundFont, unpacked, as FLAC below `folder`.

    Raises:
        DataError: there is no SoundFont in the package that can be read.
    """
    fonts = sorted(package.rglob("*.sf2"))
    if not fonts:
        raise DataError(f"{package} holds no SoundFont (.sf2)")
    font = read_soundfont(fonts[0])
    found = _written(_melodies(font), SOUNDFONT.name, SOUNDFONT.version, SOUNDFONT.licence, folder)
    minutes = sum(recording.seconds for recording in found) / 60
    say(f"{SOUNDFONT.name}: {len(found)} melodies on {len(GUITARS) + len(INSTRUMENTS)} instruments, {minutes:.1f} min")
    return found


def _speech_package() -> Package:
    """eSpeak NG for this system.

    Raises:
        DataError: there is none pinned for it.
    """
    system = platform.system(), platform.machine()
    if system not in _SPEECH_WHEELS:
        raise DataError(f"there is no pinned speech synthesiser for {' '.join(system)}")
    return Package(
        registry="pip",
        name="espeakng-loader",
        version="0.2.4",
        sha256=_SPEECH_WHEELS[system],
        licence=_SPEECH_LICENCE,
        attribution="eSpeak NG 1.52, its authors, as carried by espeakng-loader",
        wanted=("espeakng_loader/*",),
        largest=64 << 20,
    )


def _played(font: SoundFont) -> Iterator[Piece]:
    """Every kind but speech."""
    for kit in DRUM_KITS:
        yield from _takes("drums", f"kit {kit}", 10, partial(drumming, font, kit, 8.0))
    yield from _melodies(font)
    for program in EFFECTS:
        yield from _takes("everyday", font.names[0, program], 5, partial(effect, font, program, 6.0))
    for number in range(PIECES):
        yield from _takes("music", f"piece {number}", 1, partial(band, font, DRUM_KITS, 14.0))


def _melodies(font: SoundFont) -> Iterator[Piece]:
    """Guitars and other instruments, each on its own."""
    for program in GUITARS:
        yield from _takes("guitar", font.names[0, program], 7, partial(melody, font, program, 8.0))
    for program in INSTRUMENTS:
        yield from _takes("instrument", font.names[0, program], 3, partial(melody, font, program, 8.0))


def _takes(kind: str, group: str, count: int, play: Callable[[torch.Generator], Tensor]) -> Iterator[Piece]:
    for number in range(count):
        yield kind, group, play(torch.Generator().manual_seed(stream_seed(0, "rendered", kind, group, number)))


def _spoken(speaking: Speaking) -> Iterator[Piece]:
    """Sentences of no importance in many voices, a group a voice."""
    for voice in VOICES:
        for number in range(6):
            own = torch.Generator().manual_seed(stream_seed(0, "rendered", "speech", voice, number))
            text = " ".join(part[integer(0, len(part) - 1, own)] for part in _WORDS)
            yield "speech", voice, speaking.say(text, voice, integer(130, 190, own), integer(30, 70, own))


def _written(pieces: Iterator[Piece], package: str, version: str, licence: str, folder: Path) -> list[Recording]:
    """Write pieces as FLAC below a folder, peak 0.7, and say what they are."""
    found: list[Recording] = []
    for kind, group, wave in pieces:
        (folder / kind).mkdir(exist_ok=True)
        name = "".join(letter if letter.isalnum() else "-" for letter in group.lower()).strip("-")
        target = f"{kind}/{name}-{len(found):04d}.flac"
        write(folder / target, wave[None] * (0.7 / wave.abs().amax().clamp(min=1e-6)), RATE)
        seconds = round(len(wave) / RATE, 3)
        found.append(Recording(target, kind, group, "", seconds, package, version, licence))
    return found
