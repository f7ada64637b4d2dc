"""What states are: by default amplitude-compressed complex short-time Fourier transforms, which have an exact inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError

SAMPLE_RATE = 16000
LEVEL = 0.1
"""Root mean square that a mixture is brought to before its spectra are taken."""
SILENCE = 1e-5
"""Root mean square (-100 dBFS) below which a waveform counts as silent and is left as it is."""
SMALLEST = 1e-8
POWER = 0.06
"""Variance of a stem's spectra at `LEVEL`, about."""


class Representation(Protocol):
    """How waveforms are written as what a flow carries: stems (B, K, *shape) and, as a condition, their mixture."""

    @property
    def hop(self) -> int:
        """Samples between frames, the last axis of a state."""
        ...

    @property
    def linear(self) -> bool:
        """Whether states of sums are sums of states."""
        ...

    @property
    def power(self) -> float:
        """Variance of a stem's state at `LEVEL`, about."""
        ...

    def shape(self, samples: int) -> tuple[int, ...]:
        """Of one stem of so many samples, 1 + samples // hop frames last."""
        ...

    def encode(self, wave: Tensor) -> Tensor:
        """States (..., *shape) of waveforms (..., T)."""
        ...

    def hear(self, mixture: Tensor) -> Cond:
        """What a flow is told of mixtures (B, T): `mixture` (B, 1, *shape), and whatever else `waves` needs."""
        ...

    def heard(self, cond: Cond, length: int) -> Tensor:
        """The mixtures (B, length) that these conditions tell of."""
        ...

    def waves(self, states: Tensor, cond: Cond, length: int) -> Tensor:
        """Waveforms (B, K, length) of states (B, K, *shape), which sum to the mixture."""
        ...


@dataclass(frozen=True)
class Spectra:
    """c = scale |z|^exponent e^(i arg z) of the short-time Fourier transform z, as real and imaginary parts.

    Args:
        n_fft: window (periodic Hann) and transform length, even: n_fft / 2 + 1 frequencies.
        hop: samples between frames, at most a quarter of the window.
        exponent: in (0, 1]; 1 keeps spectra linear, so that those of stems add up to the mixture's.
        scale: above 0.

    Raises:
        ConfigError: a value out of range.
    Source: arXiv 2208.05830 (SGMSE+), section II.
    """

    n_fft: int = 510
    hop: int = 170
    exponent: float = 0.5
    scale: float = 0.4

    def __post_init__(self) -> None:
        if self.n_fft < 4 or self.n_fft % 2 or not 1 <= self.hop <= self.n_fft // 3:
            raise ConfigError(
                f"spectra have n_fft={self.n_fft} and hop={self.hop}; n_fft must be even and at least 4, "
                "hop from 1 to a third of it: for example 510 and 170"
            )
        if not 0 < self.exponent <= 1 or not self.scale > 0:
            raise ConfigError(
                f"spectra have exponent={self.exponent} and scale={self.scale}; the exponent must be above 0 and at most 1, "
                "the scale above 0"
            )

    @property
    def bins(self) -> int:
        """Frequencies F."""
        return self.n_fft // 2 + 1

    @property
    def linear(self) -> bool:
        """Whether spectra of sums are sums of spectra."""
        return self.exponent == 1

    @property
    def power(self) -> float:
        """Variance of a stem's spectra at `LEVEL`, about."""
        return POWER

    def frames(self, samples: int) -> int:
        """Frames N of so many samples."""
        return 1 + samples // self.hop

    def shape(self, samples: int) -> tuple[int, ...]:
        """(2, F, N)."""
        return 2, self.bins, self.frames(samples)

    def hear(self, mixture: Tensor) -> Cond:
        """`mixture` (B, 1, 2, F, N)."""
        return {"mixture": self.encode(mixture)[:, None]}

    def heard(self, cond: Cond, length: int) -> Tensor:
        """The mixtures (B, length) of their spectra."""
        return self.decode(cond["mixture"][:, 0], length)

    def waves(self, states: Tensor, cond: Cond, length: int) -> Tensor:
        """Waveforms (B, K, length) of spectra, with what they lack of the mixture shared equally."""
        return consistent(self.decode(states, length), self.heard(cond, length)[:, None])

    def encode(self, wave: Tensor) -> Tensor:
        """Spectra (..., 2, F, N) of waveforms (..., T), T at least 1 and N = 1 + T // hop."""
        flat = wave.reshape(-1, wave.shape[-1])
        z = torch.stft(
            flat, self.n_fft, self.hop, window=self._window(wave), center=True, pad_mode="constant", return_complex=True
        )
        if not self.linear:
            z = z * z.abs().clamp(min=SMALLEST) ** (self.exponent - 1)
        parts = torch.view_as_real(z).movedim(-1, 1) * self.scale
        return parts.reshape(*wave.shape[:-1], *parts.shape[1:])

    def decode(self, spectra: Tensor, length: int) -> Tensor:
        """Waveforms (..., length) of spectra (..., 2, F, N); the inverse of `encode` for lengths with N frames."""
        flat = spectra.reshape(-1, *spectra.shape[-3:])
        z = self._complex(flat) / self.scale
        if not self.linear:
            z = z * z.abs().clamp(min=SMALLEST) ** (1 / self.exponent - 1)
        wave = torch.istft(z, self.n_fft, self.hop, window=self._window(spectra), center=True, length=length)
        return wave.reshape(*spectra.shape[:-3], length)

    def magnitude(self, spectra: Tensor) -> Tensor:
        """Linear magnitudes |z| (..., F, N) of spectra (..., 2, F, N)."""
        return (self._complex(spectra).abs() / self.scale) ** (1 / self.exponent)

    def _complex(self, spectra: Tensor) -> Tensor:
        real, imaginary = spectra.unbind(-3)
        return torch.complex(real, imaginary)

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device)


def consistent(stems: Tensor, mixture: Tensor) -> Tensor:
    """Stems (B, K, ...) with what they lack of the mixture (B, 1, ...) shared equally among them."""
    return stems + (mixture / stems.shape[1] - stems.mean(1, keepdim=True))


def to_level(mixture: Tensor) -> Tensor:
    """Gains (..., 1) that bring waveforms (..., T) to `LEVEL`; 1 for silence."""
    rms = mixture.square().mean(-1, keepdim=True).sqrt()
    return torch.where(rms > SILENCE, LEVEL / rms.clamp(min=SILENCE), torch.ones_like(rms))
