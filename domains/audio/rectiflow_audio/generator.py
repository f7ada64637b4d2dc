"""Ten kinds of sound made from nothing but random numbers: the data of the tests and of the first demo."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_audio import synthesis as syn
from rectiflow_audio.captions import SYNTHETIC, SYNTHETIC_PARAPHRASES
from rectiflow_audio.synthesis import RATE, chance, integer, log_uniform, uniform, white
from rectiflow_audio.voices import babble

PEAK = 0.5


def synthesise(kind: str, samples: int, generator: torch.Generator) -> Tensor:
    """A new sound of one of `KINDS`: (samples,) float32 at 16 kHz, peak 0.5.

    Pitch, rhythm, timbre, envelopes and pauses all come from `generator`; no two are alike.

    Raises:
        ConfigError: an unknown kind, or fewer than one sample.
    """
    if kind not in _MAKERS:
        raise ConfigError(f"there is no sound of kind {kind!r}; there are {', '.join(KINDS)}: name one of them")
    if samples < 1:
        raise ConfigError(f"a sound of {samples} samples was asked for; it must have at least 1: ask for more")
    wave = _MAKERS[kind](samples, generator)
    tilt = uniform(-3, 3, generator)  # dB an octave either way around 1 kHz: another microphone each time
    octaves = (syn.frequencies(65).clamp_min(60) / 1000).log2()
    wave = syn.equalised(wave, 10 ** (tilt * octaves / 20))
    return wave * (PEAK / wave.abs().amax().clamp_min(1e-6))


def flute(samples: int, generator: torch.Generator) -> Tensor:
    """A melody of breathy, nearly sinusoidal notes with vibrato."""
    frames, seconds = syn.frames_for(samples), samples / RATE
    notes = syn.scale_notes(260, 1500, generator)
    pace = log_uniform(0.15, 0.5, generator)
    place = integer(0, len(notes) - 1, generator)
    pitch, level = torch.full((frames,), notes[place]), torch.zeros(frames)
    attack, legato = uniform(0.02, 0.08, generator), uniform(0.85, 1.1, generator)
    for start, length in syn.events(seconds, (0.7 * pace, 2.5 * pace), (0.2, 0.05, 0.4), generator):
        place = min(max(place + integer(-3, 3, generator), 0), len(notes) - 1)
        _, count, _ = syn.inside(start, length * legato, frames)
        syn.write(pitch, start, torch.full((count,), notes[place]))
        syn.write(level, start, syn.swell(count, attack, 0.05) * uniform(0.5, 1, generator))
    time = torch.arange(frames) * (syn.CONTROL_HOP / RATE)
    vibrato = uniform(0, 0.015, generator) * torch.sin(2 * math.pi * uniform(4.5, 6.5, generator) * time)
    frequency = syn.smoothed(pitch, 0.012) * (1 + vibrato)
    order = torch.arange(1, 9)
    strength = order ** -uniform(1.2, 2.6, generator) * (1 + 0.5 * white(8, generator)).clamp(0.1, 2)
    level = syn.smoothed(level, 0.01) * (1 + 12 * vibrato)
    breath = syn.equalised(white(samples, generator), syn.band(500, 4000)) * uniform(0.01, 0.06, generator)
    return (syn.harmonics(frequency, strength, samples) + breath) * syn.upsampled(level, samples)


def guitar(samples: int, generator: torch.Generator) -> Tensor:
    """Plucked strings (Karplus and Strong 1983, solved in the frequency domain): strummed chords or single notes."""
    track = torch.zeros(samples)
    notes = syn.scale_notes(82, 660, generator)
    brightness, ringing = uniform(0.05, 0.45, generator), log_uniform(0.4, 1.6, generator)
    strum, pace = chance(0.4, generator), log_uniform(0.15, 0.45, generator)
    roots = [integer(0, max(0, len(notes) - 5), generator) for _ in range(4)]
    plucked: dict[int, Tensor] = {}
    for start, _ in syn.events(samples / RATE, (0.8 * pace, 1.6 * pace), (0.15, 0.1, 0.5), generator):
        root = roots[integer(0, 3, generator)]
        strings = range(root, min(root + 8, len(notes)), 2) if strum else (root + integer(0, 4, generator),)
        apart = uniform(0.008, 0.03, generator)
        for order, string in enumerate(strings):
            if string not in plucked:
                plucked[string] = _plucked(notes[string], ringing, brightness, generator)
            syn.add(track, start + order * apart, plucked[string] * uniform(0.5, 1, generator))
    return track


def _plucked(pitch: float, ringing: float, brightness: float, generator: torch.Generator) -> Tensor:
    """One string: a burst of noise that runs round a loop of one period with a two-point average in it."""
    length = 1 << math.ceil(math.log2(1.2 * ringing * RATE))
    omega = torch.arange(length // 2 + 1) * (2 * math.pi / length)
    period = RATE / pitch
    burst = torch.zeros(length)
    burst[: round(period)] = white(round(period), generator)
    turn = torch.polar(torch.ones(()), -omega)
    average = (1 - brightness) + brightness * turn
    loop = torch.polar(torch.tensor(0.001 ** (period / RATE / ringing)), -omega * (period - brightness)) * average
    wave: Tensor = torch.fft.irfft(torch.fft.rfft(burst) / (1 - loop), length)
    wave[-RATE // 10 :] *= torch.linspace(1, 0, RATE // 10)
    return wave / wave.abs().amax()


def bell(samples: int, generator: torch.Generator) -> Tensor:
    """A struck bell: inharmonic partials that die away, the high ones first, from slow tolling to an alarm clock."""
    track = torch.zeros(samples)
    ratios = torch.tensor([0.5, 1, 1.2, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43, 6.8])
    ratios = ratios * (1 + 0.02 * white(len(ratios), generator))
    prime, lasting = log_uniform(300, 1400, generator), log_uniform(0.15, 1.2, generator)
    rate = log_uniform(0.07, 0.2, generator) if chance(0.3, generator) else log_uniform(0.35, 1.2, generator)
    tunings = [2 ** (integer(-7, 7, generator) / 12) for _ in range(3)] if chance(0.3, generator) else [1.0]
    time = torch.arange(round(min(4 * lasting, 3.0, samples / RATE + 0.1) * RATE)) / RATE
    fading = torch.exp(-time * (ratios[:, None] ** uniform(0.3, 0.9, generator)) / lasting)
    fading *= (1 + 0.5 * white((len(ratios), 1), generator)).clamp_min(0.1)
    fading *= ratios[:, None] ** -uniform(0.3, 1.0, generator)
    phases = 2 * math.pi * torch.rand(len(ratios), 1, generator=generator)
    struck = []
    for tuning in tunings:
        partials = (ratios * prime * tuning)[:, None]
        struck.append((fading * (partials < 7600) * torch.sin(2 * math.pi * partials * time + phases)).sum(dim=0))
    for start, _ in syn.events(samples / RATE, (rate, rate * 1.05), (0.1, 0.2, 0.6), generator):
        syn.add(track, start, struck[integer(0, len(struck) - 1, generator)] * uniform(0.6, 1, generator))
    return track


def drums(samples: int, generator: torch.Generator) -> Tensor:
    """A drum loop of kick, snare, hat and tom on a grid of sixteen steps."""
    track = torch.zeros(samples)
    kick = _drum(
        log_uniform(45, 75, generator), uniform(1.5, 4, generator), uniform(0.08, 0.2, generator), 0.05, generator
    )
    snare = _drum(
        log_uniform(160, 240, generator), 0.5, uniform(0.06, 0.15, generator), uniform(0.6, 1.2, generator), generator
    )
    tom = _drum(log_uniform(90, 180, generator), 0.8, uniform(0.1, 0.25, generator), 0.05, generator)
    hiss = syn.equalised(white(RATE // 3, generator), syn.band(uniform(4500, 6500, generator), 8000))
    hat = hiss * syn.decay(1 / 3, log_uniform(0.012, 0.08, generator))
    kit = (kick, snare, hat * uniform(0.5, 1.5, generator), tom)
    likely = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.05, 0.1, 0.9, 0.15], [0.9, 0.6, 0.9, 0.6], [0.1, 0.1, 0.1, 0.2]])
    likely = likely.repeat(1, 4)
    likely[1] = likely[1] * 0.3
    likely[1, [4, 12]] = 0.95
    pattern = torch.rand(4, 16, generator=generator) < likely
    pattern[0, 0] = True
    step, swing = 15 / uniform(75, 160, generator), uniform(0, 0.25, generator)
    position = integer(0, 3, generator) * 4
    start = uniform(-0.5, 0.5, generator) * step
    while start < samples / RATE:
        late = swing * step * (position % 2)
        for hit, drum in zip(pattern[:, position % 16], kit, strict=True):
            if hit:
                syn.add(track, start + late, drum * uniform(0.6, 1, generator))
        position, start = position + 1, start + step
    return track


def _drum(pitch: float, fall: float, lasting: float, noise: float, generator: torch.Generator) -> Tensor:
    """One hit: a sine that falls to `pitch` Hz from (1 + fall) times as high, and a rattle of noise."""
    seconds = min(0.5, 6 * lasting)
    sweep = pitch * (1 + fall * syn.decay(seconds, 0.02))
    body = torch.sin(2 * math.pi * sweep.cumsum(0) / RATE) * syn.decay(seconds, lasting)
    rattle = syn.equalised(white(len(body), generator), syn.band(1200, 7000)) * syn.decay(seconds, 0.7 * lasting)
    return body + noise * rattle


def bird(samples: int, generator: torch.Generator) -> Tensor:
    """Chirps: short whistles that rise, fall, arch or trill, in phrases of repeated syllables."""
    frames, seconds = syn.frames_for(samples), samples / RATE
    centre = log_uniform(1400, 4500, generator)
    pitch, level = torch.full((frames,), centre), torch.zeros(frames)
    syllable: Tensor | None = None
    for start, length in syn.events(seconds, (0.04, 0.2), (0.75, 0.02, 0.25), generator):
        if syllable is None or chance(0.35, generator):
            syllable = _chirp(centre, syn.frame_of(length) + 2, generator)
        write_level = syn.swell(len(syllable), 0.2 * length, 0.5 * length) * uniform(0.4, 1, generator)
        syn.write(pitch, start, syllable * 2 ** uniform(-0.05, 0.05, generator))
        syn.write(level, start, write_level)
    overtone = uniform(0, 0.3, generator)
    whistle = syn.harmonics(pitch, torch.tensor([1.0, overtone]), samples)
    return whistle * syn.upsampled(level, samples)


def _chirp(centre: float, frames: int, generator: torch.Generator) -> Tensor:
    way = torch.linspace(-1, 1, frames)
    slope, arch = uniform(-0.7, 0.7, generator), uniform(-0.7, 0.7, generator)
    octaves = slope * way / 2 + arch * (1 - way**2) / 2 + uniform(-0.3, 0.3, generator)
    if chance(0.35, generator):
        seconds = torch.arange(frames) * (syn.CONTROL_HOP / RATE)
        octaves += uniform(0.05, 0.25, generator) * torch.sin(2 * math.pi * uniform(20, 60, generator) * seconds)
    return centre * 2**octaves


def siren(samples: int, generator: torch.Generator) -> Tensor:
    """A siren that wails, yelps or alternates between two tones, rich in odd harmonics."""
    frames = syn.frames_for(samples)
    low, span = log_uniform(300, 800, generator), uniform(0.4, 1.5, generator)
    style = integer(0, 2, generator)
    rate = (log_uniform(0.2, 0.7, generator), log_uniform(2, 5, generator), log_uniform(0.6, 1.5, generator))[style]
    time = torch.arange(frames) * (syn.CONTROL_HOP / RATE)
    phase = (rate * time + uniform(0, 1, generator)).remainder(1)
    if style == 2:
        way = syn.smoothed((phase < 0.5).float(), 0.02)
        span = min(span, 0.6)
    else:
        rise = uniform(0.3, 0.8, generator)  # share of the turn in which the pitch rises
        way = torch.where(phase < rise, phase / rise, (1 - phase) / (1 - rise))
        way = syn.smoothed((1 - torch.cos(math.pi * way)) / 2, 0.02)
    order = torch.arange(1, 13)
    strength = order ** -uniform(0.8, 1.6, generator) * torch.where(order % 2 == 1, 1.0, uniform(0.1, 0.8, generator))
    drift = 1 + 0.1 * syn.wandering(frames, 0.5, generator)
    return syn.harmonics(low * 2 ** (span * way), strength, samples) * syn.upsampled(drift.clamp_min(0.3), samples)


def dog(samples: int, generator: torch.Generator) -> Tensor:
    """A dog: bursts of a rough voice that jumps up and drops, in groups with pauses."""
    frames, seconds = syn.frames_for(samples), samples / RATE
    size = uniform(0, 1, generator)
    top, throat = 750 * 0.3**size, 1500 * 0.45**size
    pitch, level = torch.full((frames,), top), torch.zeros(frames)
    for start, length in syn.events(seconds, (0.09, 0.13 + 0.12 * size), (0.9, 0.06, 0.5), generator):
        count = syn.frame_of(length) + 2
        way = torch.linspace(0, 1, count)
        arch = 1 - uniform(0.3, 0.6, generator) * (way - 0.35).abs() ** uniform(1, 2, generator) / 0.65
        syn.write(pitch, start, top * uniform(0.85, 1.15, generator) * arch)
        syn.write(level, start, syn.swell(count, 0.012, 0.6 * length) ** 1.3 * uniform(0.6, 1, generator))
    voice = syn.pulses(pitch * (1 + 0.03 * syn.wandering(frames, 0.005, generator)), samples)
    rough = 1 + uniform(0.2, 0.8, generator) * torch.sin(2 * math.pi * syn.turns(pitch / 2, samples))
    hoarse = white(samples, generator) * uniform(0.1, 0.6, generator)
    opening = throat * (0.8 + 0.5 * level[::4])  # the mouth opens with the loudness
    f = syn.frequencies(129)[:, None]
    mouth = syn.resonance(f, opening, 350.0) + 0.5 * syn.resonance(f, 2.3 * opening, 700.0)
    voiced = syn.shaped(voice * rough + hoarse, mouth * (1 + f / 500).rsqrt())
    return voiced * syn.upsampled(level, samples)


def rain(samples: int, generator: torch.Generator) -> Tensor:
    """Rain: a steady hiss with slow gusts, and drops that ring briefly."""
    frames = syn.frames_for(samples)
    hiss = syn.equalised(
        white(samples, generator), syn.band(log_uniform(150, 1500, generator), log_uniform(3500, 9000, generator))
    )
    gusts = 1 + uniform(0.05, 0.35, generator) * syn.wandering(frames, uniform(0.2, 1, generator), generator)
    wave = hiss * syn.upsampled(gusts.clamp_min(0.2), samples)
    drops = int(samples / RATE * log_uniform(10, 150, generator)) + 1
    time = torch.arange(RATE // 50) / RATE
    tones = torch.exp(torch.empty(drops, 1).uniform_(math.log(900), math.log(6500), generator=generator))
    fading = torch.empty(drops, 1).uniform_(0.001, 0.005, generator=generator)
    ringing = torch.sin(2 * math.pi * tones * time) * torch.exp(-time / fading)
    loudness = torch.rand(drops, 1, generator=generator) ** 3 * uniform(0.5, 5, generator)
    first = torch.randint(-len(time), samples, (drops, 1), generator=generator)
    where = first + torch.arange(len(time))
    heard = (where >= 0) & (where < samples)
    return wave.index_add(0, where[heard], (loudness * ringing)[heard])


def engine(samples: int, generator: torch.Generator) -> Tensor:
    """A combustion engine: uneven firing pulses at a drifting speed, through an exhaust, with puffs of noise."""
    frames = syn.frames_for(samples)
    idle = log_uniform(7, 28, generator)  # turns of the crank a second
    drift = 0.01 * syn.wandering(frames, 0.15, generator)
    revving = uniform(0, 0.5, generator) * syn.smoothed(syn.wandering(frames, 0.7, generator), 0.2)
    speed = idle * 2 ** (drift + revving)
    cylinders = integer(1, 4, generator)
    order = torch.arange(1, 65)
    firing = torch.where(order % cylinders == 0, 1.0, uniform(0.05, 0.5, generator))
    uneven = (1 + 0.5 * white(64, generator)).abs()
    pipe, width = log_uniform(80, 250, generator), log_uniform(60, 200, generator)
    f = syn.frequencies(1025)
    exhaust = syn.resonance(f, pipe, width) + uniform(0.2, 0.7, generator) * syn.resonance(f, 3.1 * pipe, 2 * width)
    tone = syn.equalised(syn.harmonics(speed, firing * uneven, samples), exhaust)
    puffs = torch.exp(-uniform(2, 8, generator) * syn.turns(speed * cylinders, samples))
    grit = syn.equalised(
        white(samples, generator), syn.band(log_uniform(100, 600, generator), log_uniform(1200, 4000, generator))
    )
    louder = (1 + revving).clamp_min(0.3)
    both = syn.levelled(tone) + uniform(0.15, 0.7, generator) * syn.levelled(grit * puffs)
    return both * syn.upsampled(louder, samples)


_MAKERS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "flute": flute,
    "guitar": guitar,
    "bell": bell,
    "drums": drums,
    "bird": bird,
    "siren": siren,
    "speech": babble,
    "dog": dog,
    "rain": rain,
    "engine": engine,
}
KINDS: tuple[str, ...] = tuple(_MAKERS)
CAPTIONS = SYNTHETIC
PARAPHRASES = SYNTHETIC_PARAPHRASES
