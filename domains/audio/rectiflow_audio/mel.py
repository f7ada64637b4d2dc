"""Log-mel spectrograms, and what they say of a mixture's spectrum: a mask for each stem."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_audio.transforms import mel_filters, power_spectrogram

RATE = 16000
FLOOR = 1e-10
"""Power of a band that counts as silence."""
CENTRE, SPREAD = -15.0, 4.0
"""Of natural logarithms of power, about: levels of mixtures at `representation.LEVEL` have mean 0 and deviation 1 by them."""
SILENT = (math.log(FLOOR) - CENTRE) / SPREAD
"""Level of silence."""
FAINT = 1e-12
LOWEST_STEP = 200 / 3
"""Hz a step of Slaney's mel scale, below 1 kHz."""
_TOP = 15 + 27 * math.log(8) / math.log(6.4)  # 8 kHz on that scale


@dataclass(frozen=True)
class Mel:
    """Levels of bands on the mel scale: (log(power + 1e-10) + 15) / 4.

    Args:
        size: window (periodic Hann) and transform length, even.
        hop: samples between frames, at most a quarter of the window.
        mels: bands M from 0 to 8 kHz, few enough for each to hold a frequency of the transform.

    Raises:
        ConfigError: a value out of range.
    """

    size: int = 1024
    hop: int = 160
    mels: int = 64

    def __post_init__(self) -> None:
        if self.size < 4 or self.size % 2 or not 1 <= self.hop <= self.size // 4:
            raise ConfigError(
                f"mel spectra have size={self.size} and hop={self.hop}; the size must be even and the hop at most a quarter of "
                "it: for example 1024 and 160"
            )
        # A band reaches from the middle of the one below it to that of the one above; the lowest are the narrowest.
        narrowest = 2 * LOWEST_STEP * _TOP / (self.mels + 1)
        if self.mels < 4 or narrowest < RATE / self.size:
            raise ConfigError(
                f"{self.mels} mel bands of windows of {self.size} samples: there must be at least 4, and each must hold a "
                "frequency; use fewer bands or a longer window"
            )

    def frames(self, samples: int) -> int:
        """Frames N of so many samples."""
        return 1 + samples // self.hop

    def levels(self, wave: Tensor) -> Tensor:
        """Levels (..., M, N) of waveforms (..., T)."""
        power = power_spectrogram(wave.reshape(-1, wave.shape[-1]), self.size, self.hop)
        bands = self._filters().to(power).T @ power
        found = (torch.log(bands + FLOOR) - CENTRE) / SPREAD
        return found.reshape(*wave.shape[:-1], *found.shape[1:])

    def powers(self, levels: Tensor) -> Tensor:
        """Powers of the bands, at least 0, of their levels."""
        return (torch.exp(levels * SPREAD + CENTRE) - FLOOR).clamp(min=0)

    def masks(self, levels: Tensor) -> Tensor:
        """Masks (B, K, F, N) in [0, 1] that sum to 1 over stems of levels (B, K, M, N), F = size / 2 + 1: Wiener's.

        A band's mask is spread over its frequencies by its filter: half a dB better than masks of spread powers, and 0.9 dB than
        those of powers by the filters' pseudo-inverse (20 built-in mixtures).
        """
        power = self.powers(levels) + FAINT
        return self._spread().to(levels) @ (power / power.sum(1, keepdim=True))

    def masked(self, levels: Tensor, mixture: Tensor) -> Tensor:
        """Stems (B, K, T) of mixtures (B, T), to which they add up, as their levels (B, K, M, N) share its spectrum."""
        window = torch.hann_window(self.size, dtype=mixture.dtype, device=mixture.device)
        heard = torch.stft(
            mixture, self.size, self.hop, window=window, center=True, pad_mode="constant", return_complex=True
        )
        stems = (self.masks(levels) * heard[:, None]).flatten(0, 1)
        waves = torch.istft(stems, self.size, self.hop, window=window, center=True, length=mixture.shape[-1])
        return waves.reshape(*levels.shape[:2], -1)

    def _filters(self) -> Tensor:
        return mel_filters(self.size // 2 + 1, self.mels, RATE)

    def _spread(self) -> Tensor:
        """How much of each band a frequency is given, (F, M), rows of sum 1; those that no band holds take their neighbour's."""
        filters = self._filters()
        held = filters.sum(1) > 0
        numbers = torch.arange(len(filters))
        nearest = (numbers[:, None] - numbers[held]).abs().argmin(1)
        rows = filters[held][nearest]
        return rows / rows.sum(1, keepdim=True)
