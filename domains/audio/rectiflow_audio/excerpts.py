"""Excerpts of sound files, read from the place they lie at, so that a library of any size takes no memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from rectiflow.errors import DataError
from rectiflow_audio.resampling import resampled
from rectiflow_audio.sounds import audible
from rectiflow_audio.synthesis import RATE
from rectiflow_audio.transforms import resample

# A kernel of torchaudio's grows with the rates over their common divisor.
_LARGEST_RATIO = 1000
_GRAIN = 64
_TRIES = 12
_KNOTS, _LOWEST = 6, 200.0  # of an equaliser's curve, evenly apart over the logarithm of 1 + frequency / 200 Hz


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


def audible_excerpt(
    clips: Sequence[Clip], cut: Callable[[Clip], Tensor], kind: str, generator: torch.Generator
) -> Tensor:
    """What `cut` takes out of a random one of the clips of a kind, none of it silent.

    Raises:
        DataError: a file went away, or many excerpts in a row are silent.
    """
    for _ in range(_TRIES):
        clip = clips[int(torch.randint(len(clips), (), generator=generator))]
        excerpt = cut(clip)
        if audible(excerpt):
            return excerpt
    raise DataError(
        f"{_TRIES} random excerpts of kind {kind!r} were silent, the last of {clip.path}; "
        "files must sound most of the time: cut the silence out"
    )


def varied_excerpt(clip: Clip, samples: int, semitones: float, decibels: float, generator: torch.Generator) -> Tensor:
    """A random excerpt (samples,) played up to so many semitones faster or slower, of random polarity.

    It is coloured by a smooth curve over frequency, by up to so many decibels either way.
    """
    ratio = 2 ** (semitones / 12 * (2 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 1))
    # Lengths without large prime factors transform fast.
    excerpt = random_excerpt(clip, max(_GRAIN, round(samples * ratio / _GRAIN) * _GRAIN), generator)
    polarity = 2 * int(torch.randint(2, (), generator=generator)) - 1
    gain = equaliser(samples // 2 + 1, decibels, generator) if decibels else torch.ones(())
    return at_length(excerpt, samples, polarity * gain)


def equaliser(bins: int, decibels: float, generator: torch.Generator) -> Tensor:
    """Gains (bins,) at frequencies from 0 to 8 kHz: a random curve, smooth over pitch, within so many decibels of 1."""
    knots = decibels * (2 * torch.rand(_KNOTS, generator=generator, dtype=torch.float32) - 1)
    pitch = torch.log1p(torch.linspace(0, RATE / 2 / _LOWEST, bins, dtype=torch.float32))
    place = pitch * ((_KNOTS - 1) / float(pitch[-1]))
    below = place.long().clamp(max=_KNOTS - 2)
    return 10 ** (torch.lerp(knots[below], knots[below + 1], place - below) / 20)


def at_length(wave: Tensor, samples: int, gain: Tensor | None = None) -> Tensor:
    """A wave (T,) squeezed or stretched to (samples,), by its Fourier series: pitches rise by T / samples.

    gain: of the frequencies that come out, (samples // 2 + 1,) or one for all.
    """
    spectrum = torch.fft.rfft(wave)[: samples // 2 + 1]
    if gain is not None:
        spectrum = spectrum * (gain if gain.ndim == 0 else gain[: len(spectrum)])
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
