"""Excerpts of sound files, read from the place they lie at, so that a library of any size takes no memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from rectiflow.errors import DataError
from rectiflow_audio.resampling import resampled
from rectiflow_audio.synthesis import RATE
from rectiflow_audio.transforms import resample

# A kernel of torchaudio's grows with the rates over their common divisor.
_LARGEST_RATIO = 1000
_GRAIN = 64


@dataclass(frozen=True)
class Clip:
    """A file to cut excerpts from: `first` to `last` second of it."""

    path: Path
    rate: int
    first: float
    last: float


def open_clip(path: Path) -> Clip | str:
    """The file, or why it cannot be used."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        return str(getattr(error, "error_string", error)).rstrip(".")
    if not info.frames:
        return "it holds no samples"
    return Clip(path, info.samplerate, 0.0, info.frames / info.samplerate)


def random_excerpt(clip: Clip, samples: int, generator: torch.Generator) -> Tensor:
    """A random excerpt (samples,), its beginning anywhere in a long file, and a short one laid out again and again."""
    needed, length = samples / RATE, clip.last - clip.first
    if length >= needed:
        start = clip.first + (length - needed) * float(torch.rand((), generator=generator, dtype=torch.float64))
        return read_clip(clip, start, samples)
    whole = read_clip(clip, clip.first, max(1, round(length * RATE)))
    track = torch.zeros(samples)
    position = int((samples - len(whole)) * float(torch.rand((), generator=generator)) * 0.3)
    while position < samples:
        kept = whole[: samples - position]
        track[position : position + len(kept)] += kept
        pause = float(torch.rand((), generator=generator)) ** 2
        position += len(whole) + round(pause * min(RATE, 2 * len(whole)))
    return track


def varied_excerpt(clip: Clip, samples: int, semitones: float, generator: torch.Generator) -> Tensor:
    """A random excerpt (samples,) played up to so many semitones faster or slower, of random polarity."""
    ratio = 2 ** (semitones / 12 * (2 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 1))
    # Lengths without large prime factors transform fast.
    excerpt = random_excerpt(clip, max(_GRAIN, round(samples * ratio / _GRAIN) * _GRAIN), generator)
    return at_length(excerpt, samples) * (2 * int(torch.randint(2, (), generator=generator)) - 1)


def at_length(wave: Tensor, samples: int) -> Tensor:
    """A wave (T,) squeezed or stretched to (samples,), by its Fourier series: pitches rise by T / samples."""
    spectrum = torch.fft.rfft(wave)[: samples // 2 + 1]
    stretched: Tensor = torch.fft.irfft(spectrum, n=samples) * (samples / len(wave))
    return stretched


def read_clip(clip: Clip, start: float, samples: int) -> Tensor:
    """Samples (samples,) at 16 kHz from a second of a file on."""
    frames = -(-samples * clip.rate // RATE) + 1
    try:
        with soundfile.SoundFile(clip.path) as file:
            file.seek(min(round(start * clip.rate), file.frames))
            block = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(
            f"{clip.path} cannot be read any more: {error}; restore it or take it out of the library"
        ) from error
    wave = torch.from_numpy(block).mean(dim=1).nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
    if clip.rate // math.gcd(clip.rate, RATE) > _LARGEST_RATIO:
        wave = torch.cat(list(resampled([wave[None]], clip.rate, RATE)), dim=1)[0]
    elif clip.rate != RATE:
        wave = resample(wave, clip.rate, RATE)
    return F.pad(wave, (0, max(0, samples - len(wave))))[:samples]
