"""Babble: a synthetic human voice that says syllables of no language."""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow_audio import synthesis as syn
from rectiflow_audio.synthesis import RATE, chance, integer, log_uniform, uniform, white

# First three formants in Hz of ten vowels of American English, men (Peterson and Barney 1952, table II).
VOWELS = (
    (270, 2290, 3010),
    (390, 1990, 2550),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (570, 840, 2410),
    (440, 1020, 2240),
    (300, 870, 2240),
    (640, 1190, 2390),
    (490, 1350, 1690),
)
_WIDTHS = (80.0, 110.0, 160.0)  # Hz, of the resonances
_STRENGTHS = (1.0, 0.6, 0.35)


def babble(samples: int, generator: torch.Generator) -> Tensor:
    """Phrases of syllables (samples,): voiced vowels that glide into each other, hisses and pops between them, pauses."""
    frames, seconds = syn.frames_for(samples), samples / RATE
    base = log_uniform(85, 280, generator)
    tract = (base / 110) ** 0.25 * uniform(0.92, 1.08, generator)  # higher voices come from shorter throats
    pace = log_uniform(0.11, 0.2, generator)
    level = torch.zeros(frames)
    formants = torch.tensor(VOWELS[integer(0, 9, generator)], dtype=torch.float32)[:, None].repeat(1, frames)
    hiss = torch.zeros(samples)
    accents = torch.zeros(frames)
    for start, length in syn.events(seconds, (0.8 * pace, 1.6 * pace), (0.2, 0.12, 0.5), generator):
        onset = _consonant(hiss, start, generator) if chance(0.6, generator) else 0.0
        _, count, _ = syn.inside(start + onset, length, frames)
        vowel = torch.tensor(VOWELS[integer(0, 9, generator)], dtype=torch.float32)
        for track, centre in zip(formants, vowel, strict=True):
            syn.write(track, start, centre.repeat(count + syn.frame_of(onset)))
        syn.write(level, start + onset, syn.swell(count, 0.025, 0.05) * uniform(0.5, 1, generator))
        syn.write(accents, start + onset, torch.full((count,), uniform(-0.15, 0.3, generator)))
    lively = uniform(0.3, 1.2, generator)
    melody = syn.smoothed(accents, 0.12) * lively + 0.1 * lively * syn.wandering(frames, 0.6, generator)
    jitter = 0.006 * syn.wandering(frames, 0.008, generator)
    pitch = base * 2 ** (melody + jitter)
    f = syn.frequencies(129)[:, None]
    throat = torch.zeros(129, len(level[::4]))
    for track, width, strength in zip(formants, _WIDTHS, _STRENGTHS, strict=True):
        throat += strength * syn.resonance(f, syn.smoothed(track * tract, 0.05)[::4], width)
    slope = (1 + f / 200) ** -uniform(0.7, 1.2, generator)
    voice = syn.shaped(syn.pulses(pitch, samples), throat * slope) * 3
    breath = syn.equalised(white(samples, generator), syn.band(1500, 5000)) * uniform(0.005, 0.05, generator)
    loudness = syn.upsampled(syn.smoothed(level, 0.015), samples)
    return (voice + breath) * loudness + uniform(0.3, 1, generator) * hiss


def _consonant(track: Tensor, start: float, generator: torch.Generator) -> float:
    """Add a hiss (s, sh, f) or a pop (p, t, k) before a vowel, and return how many seconds it takes."""
    if chance(0.6, generator):
        lasting, low = uniform(0.05, 0.12, generator), uniform(1800, 4500, generator)
        envelope = syn.upsampled(syn.swell(syn.frame_of(lasting) + 1, 0.02, 0.03), round(lasting * RATE))
        noise = syn.equalised(white(len(envelope), generator), syn.band(low, low + 3000))
        syn.add(track, start, 0.35 * noise * envelope)
        return lasting
    closed = uniform(0.02, 0.05, generator)
    noise = syn.equalised(white(RATE // 40, generator), syn.band(uniform(300, 2500, generator), 6000))
    syn.add(track, start + closed, noise * syn.decay(1 / 40, 0.005))
    return closed + 0.012
