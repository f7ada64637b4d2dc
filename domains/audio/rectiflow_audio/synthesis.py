"""Building blocks of the synthetic sounds: random numbers, curves at a slow control rate, harmonic sums, shaped noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from rectiflow_audio.representation import SAMPLE_RATE

RATE = SAMPLE_RATE
CONTROL_HOP = 16  # samples between two values of a curve: a control rate of 1 kHz, enough for a 60 Hz trill
_HIGHEST = 7600.0  # Hz; partials above it are left out, so that nothing folds back at 8 kHz


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number between low and high."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number between low and high, even in its logarithm."""
    return math.exp(uniform(math.log(low), math.log(high), generator))


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """An integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def chance(probability: float, generator: torch.Generator) -> bool:
    """True with the given probability."""
    return uniform(0, 1, generator) < probability


def white(shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """White Gaussian noise of unit variance."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def frames_for(samples: int) -> int:
    """Number of control values that cover a number of samples."""
    return -(-samples // CONTROL_HOP) + 1


def frame_of(seconds: float) -> int:
    """Index of the control value at a time."""
    return round(seconds * RATE / CONTROL_HOP)


def upsampled(curve: Tensor, samples: int) -> Tensor:
    """A curve (..., frames) at the control rate, drawn with straight lines at the sample rate: (..., samples)."""
    flat = curve.reshape(1, -1, curve.shape[-1])
    drawn = F.interpolate(flat, size=(curve.shape[-1] - 1) * CONTROL_HOP + 1, mode="linear", align_corners=True)
    return drawn.reshape(*curve.shape[:-1], -1)[..., :samples]


def smoothed(curve: Tensor, seconds: float) -> Tensor:
    """A curve (frames,) averaged over a window of some seconds, its ends held."""
    half = max(1, frame_of(seconds / 2))
    held = F.pad(curve.reshape(1, 1, -1), (half, half), mode="replicate")
    return F.avg_pool1d(held, 2 * half + 1, stride=1).reshape(-1)


def wandering(frames: int, seconds: float, generator: torch.Generator) -> Tensor:
    """A smooth random curve (frames,) of about unit variance that changes its mind every so many seconds."""
    knots = max(2, round(frames * CONTROL_HOP / RATE / seconds) + 2)
    return F.interpolate(white((1, 1, knots), generator), size=frames, mode="linear", align_corners=True).reshape(-1)


def swell(frames: int, attack: float, release: float) -> Tensor:
    """A curve (frames,) that rises from 0 to 1 over `attack` seconds and falls over the last `release` seconds."""
    step = CONTROL_HOP / RATE
    time = torch.arange(frames, dtype=torch.float32) * step
    return torch.minimum(time / max(attack, step), (frames * step - time) / max(release, step)).clamp(0, 1)


def events(
    seconds: float, length: tuple[float, float], pause: tuple[float, float, float], generator: torch.Generator
) -> Iterator[tuple[float, float]]:
    """Yield (start, length) in seconds of one event after another; the first may have begun just before time 0.

    length: the range they are drawn from, even in logarithm. pause: probability of one after an event, and its range.
    """
    likely, shortest, longest = pause
    start = uniform(-0.05, min(0.2, seconds / 4), generator)
    while start < seconds:
        lasting = log_uniform(*length, generator)
        yield start, lasting
        start += lasting
        if chance(likely, generator):
            start += uniform(shortest, longest, generator)


def inside(start: float, length: float, frames: int) -> tuple[slice, int, int]:
    """Where an event lies on a curve: the part of the curve, the event's own number of values, and how many were cut."""
    first, count = frame_of(start), max(2, frame_of(length))
    cut = max(0, -first)
    return slice(max(0, first), max(0, min(frames, first + count))), count, cut


def write(curve: Tensor, start: float, event: Tensor) -> None:
    """Lay an event (count,) on a curve (frames,) from `start` seconds on, cutting what hangs over either end."""
    first = frame_of(start)
    low, high = max(0, first), min(len(curve), first + len(event))
    if high > low:
        curve[low:high] = event[low - first : high - first]


def add(track: Tensor, start: float, wave: Tensor) -> None:
    """Add a wave to a track (samples,) from `start` seconds on, cutting what hangs over either end."""
    first = round(start * RATE)
    low, high = max(0, first), min(len(track), first + len(wave))
    if high > low:
        track[low:high] += wave[low - first : high - first]


def turns(frequency: Tensor, samples: int) -> Tensor:
    """Phase (samples,) in turns, in [0, 1), of an oscillator whose frequency in Hz is a curve."""
    # float32 loses the phase within seconds.
    return (upsampled(frequency, samples).double().cumsum(0) / RATE).remainder(1).float()


def harmonics(frequency: Tensor, strengths: Tensor, samples: int) -> Tensor:
    """Sum (samples,) of sines at multiples 1..K of a fundamental, given in Hz as a curve (frames,).

    strengths: (K,); partials that pass 7.6 kHz anywhere are left out.
    """
    kept = strengths[: max(1, int(_HIGHEST / float(frequency.amax())))]
    points = 64 * len(kept)  # straight lines between 64 points of the highest partial: 60 dB below it
    spectrum = torch.zeros(points // 2 + 1, dtype=torch.complex64)
    spectrum[1 : len(kept) + 1] = torch.complex(torch.zeros(len(kept)), -kept * points / 2)
    one_turn = torch.fft.irfft(spectrum, points)
    position = turns(frequency, samples) * points
    left = position.long().clamp_max(points - 1)
    part = position - left
    wave: Tensor = one_turn[left] + part * (one_turn.roll(-1) - one_turn)[left]
    return wave


def pulses(frequency: Tensor, samples: int) -> Tensor:
    """A train (samples,) of band-limited pulses at a rate in Hz given as a curve: equal cosines up to 7.6 kHz.

    The Dirichlet kernel: sum of cos(k x) for k = 1..K is sin((K + 1/2) x) / (2 sin(x / 2)) - 1/2.
    """
    count = max(1, int(_HIGHEST / float(frequency.amax())))
    half = math.pi * turns(frequency, samples)
    below = torch.sin(half)
    top = torch.sin((2 * count + 1) * half)
    train = torch.where(below.abs() < 1e-4, 2 * count + 1.0, top / below.clamp_min(1e-4))
    centred: Tensor = (train - 1) / (2 * count) ** 0.5
    return centred


def shaped(wave: Tensor, gain: Tensor) -> Tensor:
    """A wave (samples,) through a filter that changes: gain (129, N) at equally spaced frequencies and times."""
    window = torch.hann_window(256)
    padded = F.pad(wave, (0, max(0, 257 - len(wave))))
    spectrum = torch.stft(padded, 256, 64, window=window, return_complex=True)
    drawn = F.interpolate(gain[None], size=spectrum.shape[-1], mode="linear", align_corners=True)[0]
    return torch.istft(spectrum * drawn, 256, 64, window=window, length=len(padded))[: len(wave)]


def equalised(wave: Tensor, gain: Tensor) -> Tensor:
    """A wave (samples,) whose spectrum is multiplied by a gain given at equally spaced frequencies from 0 to 8 kHz."""
    length = next_fast_len(len(wave) + 256, real=True)
    spectrum = torch.fft.rfft(wave, length)
    drawn = F.interpolate(gain.reshape(1, 1, -1), size=len(spectrum), mode="linear", align_corners=True)
    filtered: Tensor = torch.fft.irfft(spectrum * drawn.reshape(-1), length)[: len(wave)]
    return filtered


def levelled(wave: Tensor, level: float = 1.0) -> Tensor:
    """A wave brought to a root mean square; silence stays silent."""
    return wave * (level / wave.square().mean().sqrt().clamp_min(1e-9))


def frequencies(count: int) -> Tensor:
    """Equally spaced frequencies (count,) from 0 to 8 kHz, for the gains of `equalised`."""
    return torch.linspace(0, RATE / 2, count)


def resonance(frequency: Tensor, centre: Tensor | float, width: Tensor | float) -> Tensor:
    """Gain of a resonator of unit height at `centre` Hz and of `width` Hz where its power is half."""
    return ((2 * (frequency - centre) / width) ** 2 + 1).rsqrt()


def band(low: float, high: float, count: int = 257) -> Tensor:
    """Gain (count,) of a band-pass with soft edges, for `equalised`."""
    f = frequencies(count)
    return (1 + (low / f.clamp_min(1)) ** 4).rsqrt() * (1 + (f / high) ** 4).rsqrt()


def decay(seconds: float, time_constant: float) -> Tensor:
    """exp(-t / time_constant) at the sample rate, for some seconds."""
    return torch.exp(-torch.arange(max(2, round(seconds * RATE)), dtype=torch.float32) / (time_constant * RATE))


def scale_notes(lowest: float, highest: float, generator: torch.Generator) -> list[float]:
    """The notes in Hz of a random key between two frequencies: major, minor or pentatonic."""
    scales: Sequence[tuple[int, ...]] = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))
    scale = scales[integer(0, 2, generator)]
    root = lowest * 2 ** (uniform(0, 12, generator) / 12) / 2
    steps = [12 * octave + step for octave in range(8) for step in scale]
    return [note for step in steps if lowest <= (note := root * 2 ** (step / 12)) <= highest]
