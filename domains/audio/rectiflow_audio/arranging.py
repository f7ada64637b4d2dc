"""Pieces played on the instruments of a SoundFont: melodies, drum patterns, and whole bands, all by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow_audio.soundfont import SoundFont
from rectiflow_audio.synthesis import RATE, chance, integer, uniform

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
DRUM_BANK = 128
KICK, SNARE, HAT, OPEN_HAT, TOMS, CRASH = 36, 38, 42, 46, (41, 45, 48), 49
PADS = (4, 5, 16, 17, 19, 21, 24, 25, 48, 49, 50, 52, 89)
BASSES = (32, 33, 34, 35, 36, 38)
PARTS = ("drums", "bass", "chords", "lead")
LEADS = (0, 11, 22, 40, 56, 57, 64, 65, 66, 71, 73, 75, 80, 81)


def melody(font: SoundFont, program: int, seconds: float, generator: torch.Generator) -> Tensor:
    """A line of notes, some of them chords, wandering over a random scale: (T,) at 16 kHz."""
    track = torch.zeros(round(seconds * RATE))
    keys = _keys(integer(45, 62, generator), 2, generator)
    place, pace = integer(0, len(keys) - 1, generator), uniform(0.15, 0.6, generator)
    chords, start = uniform(0, 0.4, generator), uniform(0, 0.2, generator)
    while start < seconds:
        place = min(max(place + integer(-3, 3, generator), 0), len(keys) - 1)
        lasting = pace * (1, 1, 2, 0.5)[integer(0, 3, generator)]
        struck = [place, place + 2, place + 4] if chance(chords, generator) else [place]
        for number in struck:
            note = font.note(0, program, keys[number % len(keys)], lasting * uniform(0.8, 1.3, generator))
            _lay(track, note, start, uniform(0.5, 1, generator))
        start += lasting * (2 if chance(0.1, generator) else 1)
    return track


def drumming(font: SoundFont, kit: int, seconds: float, generator: torch.Generator) -> Tensor:
    """A pattern of sixteen steps, varied a little each time round: (T,) at 16 kHz."""
    track = torch.zeros(round(seconds * RATE))
    rows = (KICK, SNARE, HAT, OPEN_HAT, TOMS[integer(0, 2, generator)], CRASH)
    likely = torch.tensor([0.25, 0.12, uniform(0.3, 0.8, generator), 0.05, 0.06, 0.01])[:, None].repeat(1, 16)
    likely[0, [0, 8]], likely[1, [4, 12]] = 0.95, 0.9
    pattern = torch.rand(6, 16, generator=generator) < likely
    step = 15 / uniform(70, 170, generator)
    for number in range(int(seconds / step) + 1):
        changed = torch.rand(6, generator=generator) < 0.05
        for row, hit in enumerate((pattern[:, number % 16] ^ changed).tolist()):
            if hit:
                note = font.note(DRUM_BANK, kit, rows[row], 1.0)
                _lay(track, note, number * step, uniform(0.6, 1, generator))
    return track


def band(font: SoundFont, kits: tuple[int, ...], seconds: float, generator: torch.Generator) -> Tensor:
    """Chords, a bass, mostly drums and a lead over four chords that come round again: (T,) at 16 kHz."""
    return band_parts(font, kits, seconds, generator).sum(0)


def band_parts(font: SoundFont, kits: tuple[int, ...], seconds: float, generator: torch.Generator) -> Tensor:
    """What a band plays by itself, `PARTS` (4, T) at 16 kHz; drums and lead are silent now and then."""
    drums, bass, chords, lead = torch.zeros(4, round(seconds * RATE))
    scale, root = SCALES[integer(0, 1, generator)], integer(45, 56, generator)
    degrees = [(0, 3, 4, 5)[integer(0, 3, generator)] for _ in range(4)]
    bar = uniform(1.2, 2.6, generator)
    pad, low = PADS[integer(0, len(PADS) - 1, generator)], BASSES[integer(0, len(BASSES) - 1, generator)]
    for number in range(int(seconds / bar) + 1):
        degree = degrees[number % 4]
        chord = [root + scale[(degree + third) % 7] + 12 * ((degree + third) // 7) for third in (0, 2, 4)]
        for key in chord:
            _lay(chords, font.note(0, pad, key, bar), number * bar, 0.3)
        for beat in range(4):
            if beat == 0 or chance(0.6, generator):
                _lay(bass, font.note(0, low, chord[0] - 12, bar / 4), (number + beat / 4) * bar, 0.5)
    if chance(0.8, generator):
        kit = kits[integer(0, len(kits) - 1, generator)]
        drums = _level(drumming(font, kit, seconds, generator)) * uniform(0.3, 1, generator)
    if chance(0.8, generator):
        program = LEADS[integer(0, len(LEADS) - 1, generator)]
        lead = _level(melody(font, program, seconds, generator)) * uniform(0.3, 1, generator)
    together = (bass + chords).square().mean().sqrt().clamp(min=1e-6)
    return torch.stack([drums, bass / together, chords / together, lead])


def effect(font: SoundFont, program: int, seconds: float, generator: torch.Generator) -> Tensor:
    """A sound effect of the General MIDI set, once or a few times, higher or lower: (T,) at 16 kHz."""
    track = torch.zeros(round(seconds * RATE))
    key, start = integer(48, 72, generator), 0.0
    while start < seconds:
        lasting = uniform(0.8, 4, generator)
        _lay(track, font.note(0, program, key, lasting), start, uniform(0.6, 1, generator))
        start += lasting + uniform(0, 0.5, generator)
    return track


def _keys(lowest: int, octaves: int, generator: torch.Generator) -> list[int]:
    scale = SCALES[integer(0, len(SCALES) - 1, generator)]
    return [lowest + 12 * octave + step for octave in range(octaves) for step in scale]


def _lay(track: Tensor, note: Tensor | None, start: float, gain: float) -> None:
    first = round(start * RATE)
    if note is not None and first < len(track):
        kept = note[: len(track) - first]
        track[first : first + len(kept)] += gain * kept


def _level(wave: Tensor) -> Tensor:
    return wave / wave.square().mean().sqrt().clamp(min=1e-6)
