"""All that is used of torchaudio: resampling in memory, the mel filter bank, the plain spectrogram, and Conv-TasNet."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

# Wider and steeper than torchaudio's default: what lies between 7.6 and 8 kHz is lost at 16 kHz, and nothing is folded.
LOWPASS_WIDTH = 24
ROLLOFF = 0.97


def resample(wave: Tensor, source: int, target: int) -> Tensor:
    """A signal (..., T) at rate `source` as (..., ceil(T target / source)) at rate `target`, in samples a second."""
    resampled: Tensor = torchaudio.functional.resample(
        wave, source, target, lowpass_filter_width=LOWPASS_WIDTH, rolloff=ROLLOFF
    )
    return resampled


def mel_filters(bins: int, mels: int, rate: int, low: float = 0.0, high: float | None = None) -> Tensor:
    """Triangular filters (bins, mels) on the mel scale (Slaney's, of unit area) from `low` to `high` Hz, by default rate / 2.

    `bins` frequencies lie evenly between 0 and rate / 2.
    """
    filters: Tensor = torchaudio.functional.melscale_fbanks(
        bins, low, rate / 2 if high is None else high, mels, rate, norm="slaney", mel_scale="slaney"
    )
    return filters


def power_spectrogram(wave: Tensor, size: int, hop: int) -> Tensor:
    """|STFT|^2 of a signal (..., T) as (..., size / 2 + 1, T // hop + 1), Hann window of `size`, 1 for a full-scale sine."""
    window = torch.hann_window(size, dtype=wave.dtype, device=wave.device)
    power: Tensor = torchaudio.functional.spectrogram(
        wave, 0, window, size, hop, size, power=2.0, normalized=False, center=True, pad_mode="constant"
    )
    return power * (2 / window.sum()).square()


def conv_tasnet(
    stems: int, features: int, kernel: int, hidden: int, layers: int, stacks: int
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Encoder, mask network and decoder of a Conv-TasNet, their weights from torch's global generator."""
    whole = torchaudio.models.ConvTasNet(
        num_sources=stems,
        enc_kernel_size=kernel,
        enc_num_feats=features,
        msk_num_feats=hidden // 2,
        msk_num_hidden_feats=hidden,
        msk_num_layers=layers,
        msk_num_stacks=stacks,
    )
    return whole.encoder, whole.mask_generator, whole.decoder
