"""Instruments out of a SoundFont 2 file: recorded notes, with the pitches and loops by which other notes are made of them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow_audio.excerpts import at_length
from rectiflow_audio.synthesis import RATE

_FULL_SCALE = 32768.0
_ATTACK, _RELEASE = 0.003, 0.06  # seconds
_LONGEST = 10.0  # seconds of a note
_KEYS, _VELOCITIES, _INSTRUMENT, _SAMPLE, _MODES, _ROOT = 43, 44, 41, 53, 54, 58
_COARSE, _FINE, _DECAY, _SUSTAIN = 51, 52, 36, 37
Zone = dict[int, int]
"""Generators of a zone: number -> amount, unsigned 16 bits."""


@dataclass(frozen=True)
class SoundFont:
    """A read SoundFont.

    Attributes:
        names: (bank, program) -> name of a preset.
    """

    names: dict[tuple[int, int], str]
    _zones: dict[tuple[int, int], list[Zone]]
    _headers: list[tuple[int, ...]]
    _samples: Tensor

    def note(self, bank: int, program: int, key: int, seconds: float) -> Tensor | None:
        """A key (0 to 127, 60 the middle C) held for so long, (T,) at 16 kHz; None where the preset has no such key.

        It decays as the file says, and ends with a short release.
        """
        zone = next((zone for zone in self._zones.get((bank, program), []) if _holds(zone, key)), None)
        if zone is None:
            return None
        first, end, loop, loop_end, rate, root, correction = self._headers[zone[_SAMPLE]]
        root = zone.get(_ROOT, root)
        cents = 100 * (key - root + _signed(zone.get(_COARSE, 0))) + _signed(zone.get(_FINE, 0)) + correction
        speed = 2 ** (cents / 1200) * rate
        needed = round(min(seconds, _LONGEST) * speed)
        wave = self._samples[first:end].float() / _FULL_SCALE
        if zone.get(_MODES, 0) & 1 and first <= loop < loop_end <= end:
            turn = wave[loop - first : loop_end - first]
            wave = torch.cat([wave[: loop_end - first], turn.repeat(max(0, needed - len(wave)) // len(turn) + 1)])
        wave = wave[: max(needed, 2)]
        found = at_length(wave, max(2, round(len(wave) * RATE / speed)))
        return found * _envelope(len(found), zone)


def read_soundfont(path: Path) -> SoundFont:
    """Read a SoundFont 2 file (E-mu's specification, version 2.04).

    Raises:
        DataError: it is none, or damaged.
    """
    try:
        content = path.read_bytes()
        chunks = dict(_chunks(content))
        presets = _records(chunks[b"phdr"], "<20s3H3I")
        headers = _records(chunks[b"shdr"], "<20s5IBb2H")
        instruments = [row[1] for row in _records(chunks[b"inst"], "<20sH")]
        outer = _bags(chunks[b"pbag"], chunks[b"pgen"])
        inner = _bags(chunks[b"ibag"], chunks[b"igen"])
        zones, names = {}, {}
        for row, following in itertools.pairwise(presets):
            place = row[2], row[1]
            names[place] = row[0].split(b"\0")[0].decode("latin-1").strip()
            zones[place] = list(_notes(outer[row[3] : following[3]], instruments, inner))
        samples = torch.from_numpy(np.frombuffer(chunks[b"smpl"], "<i2").copy())
    except (OSError, KeyError, IndexError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a SoundFont 2 file that can be read: {error!r}; fetch it again") from error
    return SoundFont(names, zones, [row[1:8] for row in headers], samples)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of every chunk inside the lists of a RIFF file."""
    if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
        raise ValueError("no RIFF file of kind sfbk")
    place = 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], struct.unpack_from("<I", content, place + 4)[0]
        place += 12 if name == b"LIST" else 8  # the chunks of a list follow its kind
        if name != b"LIST":
            yield name, content[place : place + size]
            place += size + size % 2


def _records(chunk: bytes, form: str) -> list[tuple[Any, ...]]:
    return list(struct.iter_unpack(form, chunk))


def _bags(bags: bytes, generators: bytes) -> list[Zone]:
    """The zones that an index and its generators stand for."""
    firsts = [first for first, _ in struct.iter_unpack("<2H", bags)]
    pairs = list(struct.iter_unpack("<2H", generators))
    return [dict(pairs[low:high]) for low, high in itertools.pairwise(firsts)]


def _notes(outer: list[Zone], instruments: list[int], inner: list[Zone]) -> Iterator[Zone]:
    """Zones that name a sample, with what the zones around them and the first, global, one say for all."""
    for zone in outer:
        if _INSTRUMENT not in zone:
            continue
        number = zone[_INSTRUMENT]
        common: Zone = {}
        for part in inner[instruments[number] : instruments[number + 1]]:
            if _SAMPLE not in part:
                common = part
            elif _meets(zone, part):
                yield {**common, **part}


def _meets(zone: Zone, part: Zone) -> bool:
    """Whether some key is in the ranges of both."""
    (low, high), (first, last) = _range(zone), _range(part)
    return max(low, first) <= min(high, last)


def _holds(zone: Zone, key: int) -> bool:
    """Whether a key struck loudly is of this zone."""
    low, high = _range(zone)
    return low <= key <= high and zone.get(_VELOCITIES, 127 << 8) >> 8 >= 100


def _range(zone: Zone) -> tuple[int, int]:
    amount = zone.get(_KEYS, 127 << 8)
    return amount & 255, amount >> 8


def _signed(amount: int) -> int:
    return amount - 65536 if amount >= 32768 else amount


def _envelope(samples: int, zone: Zone) -> Tensor:
    """Loudness (samples,): at once there, then down to the zone's sustained level in its time of decay, and off."""
    time = torch.arange(samples) / RATE
    # Time in 1200 log2 of seconds for 100 dB; level in tenths of dB below the peak.
    decay = 2 ** (max(-12000, _signed(zone.get(_DECAY, 0))) / 1200) if _DECAY in zone else 0.001
    fallen = (100 * time / decay).clamp(max=min(1440, zone.get(_SUSTAIN, 0)) / 10)
    end = torch.flip(time, (0,))
    return 10 ** (-fallen / 20) * (time / _ATTACK).clamp(max=1) * (end / _RELEASE).clamp(max=1)
