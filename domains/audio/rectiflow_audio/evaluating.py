"""Figures of separated mixtures, and how they are to be read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from rectiflow.metrics import frechet_distance
from rectiflow.records import Metric
from rectiflow_audio.metrics import (
    by_kind,
    by_snr,
    false_extraction_level,
    log_spectral_distance,
    si_sdr_improvement,
    summary,
)
from rectiflow_audio.transforms import mel_filters, power_spectrogram

MELS, WINDOW, FRAMES = 32, 512, 16
"""Log-mel patches that `fd_logmel` is computed on: bands, samples a window (half of it between frames), frames a patch."""
RATE = 16000
LEVELS = (-5.0, 0.0, 5.0)
"""Edges in dB of the bins of the mixtures' SNR."""
FLOOR = 1e-8
"""Power in a band that counts as silence."""


def listed(kinds: Sequence[str], asked: bool = True) -> list[Metric]:
    """The figures of an audio run, for sounds of these kinds; those of controls and levels only where something is asked."""
    edges = [-math.inf, *LEVELS, math.inf]
    bins = [f"{low:g}..{high:g}" for low, high in itertools.pairwise(edges)]
    controls = [
        Metric("si_sdri_paraphrase", "new words", "higher"),
        Metric("si_sdri_wrong_query", "wrong", "lower"),
        Metric("false_extraction", "false", "lower"),
    ]
    return [
        Metric("si_sdri", "SI-SDRi", "higher", primary=True),
        Metric("si_sdri_median", "median", "higher"),
        Metric("improved", "improved", "higher"),
        *(controls if asked else []),
        Metric("lsd", "LSD", "lower"),
        Metric("fd_logmel", "FD", "lower"),
        *(Metric(f"si_sdri_{kind}", kind, "higher") for kind in sorted(kinds)),
        *(Metric(f"si_sdri_at_{name}", f"{name} dB", "higher") for name in bins if asked),
    ]


def figures(
    estimate: Tensor, wanted: Tensor, mixture: Tensor, kinds: Sequence[str], snrs: Sequence[float] = ()
) -> dict[str, float]:
    """Figures of estimates (n, T) of what is wanted, which is of these n kinds, against it and against the mixtures.

    Mean, median and share above 0 of the improvement of SI-SDR, in dB; its mean by kind and, where they are given, by the n
    levels in dB of what is wanted above the rest; distance of log spectra; and Frechet distance of log-mel patches.
    """
    gains = si_sdr_improvement(estimate, wanted, mixture)
    whole = summary(gains)
    distance = summary(log_spectral_distance(estimate, wanted))
    return {
        "si_sdri": whole.mean,
        "si_sdri_median": whole.median,
        "improved": whole.improved,
        "lsd": distance.mean,
        "fd_logmel": frechet_distance(log_mel_patches(estimate), log_mel_patches(wanted)),
        **{f"si_sdri_{kind}": found.mean for kind, found in by_kind(gains, kinds).items()},
        **{f"si_sdri_at_{name}": found.mean for name, found in (by_snr(gains, snrs, LEVELS) if snrs else {}).items()},
    }


def improvement(waves: Tensor, truth: Tensor) -> float:
    """Mean improvement of SI-SDR in dB of the first of stems (B, K, T)."""
    return summary(si_sdr_improvement(waves[:, 0], truth[:, 0], truth.sum(1))).mean


def false_extraction(waves: Tensor, truth: Tensor) -> float:
    """Mean level in dB, relative to the mixture, of the first of stems (B, K, T) whose query names nothing in it."""
    return summary(false_extraction_level(waves[:, 0], truth.sum(1))).mean


def log_mel_patches(waves: Tensor) -> Tensor:
    """Features (n, 64) of waveforms (B, T): mean and standard deviation over 16 frames of 32 log-mel bands in dB."""
    power = power_spectrogram(waves, WINDOW, WINDOW // 2)
    mels = torch.einsum("bfn,fm->bnm", power, mel_filters(power.shape[1], MELS, RATE))
    level = 10 * torch.log10(mels.clamp(min=FLOOR))
    size = min(FRAMES, level.shape[1])
    grouped = rearrange(level[:, : level.shape[1] // size * size], "b (p n) m -> (b p) n m", n=size)
    return torch.cat([grouped.mean(1), grouped.std(1, unbiased=False)], dim=1)
