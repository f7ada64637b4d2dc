"""Resampling, mel filters and spectrograms, against torchaudio and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from rectiflow_audio.resampling import regrouped, resampled
from rectiflow_audio.transforms import mel_filters, power_spectrogram, resample


@pytest.mark.parametrize(
    ("source", "target", "length"),
    [
        (44100, 16000, 5001),
        (16000, 44100, 3000),
        (8000, 16000, 777),
        (96000, 16000, 100),
        (11025, 16000, 1500),
        (48000, 16000, 5),
        (16000, 16000, 7),
        (44100, 16000, 1),
    ],
)
@pytest.mark.parametrize("size", [1, 97, 10_000])
def test_in_blocks_as_in_memory(source: int, target: int, length: int, size: int, generator: torch.Generator) -> None:
    if size == 1:
        length = min(length, 300)
    wave = torch.randn(2, length, generator=generator)
    got = torch.cat(list(resampled(wave.split(size, dim=1), source, target)), dim=1)
    assert got.shape == (2, -(-length * target // source))
    torch.testing.assert_close(got.double(), resample(wave.double(), source, target), atol=2e-6, rtol=0)


def test_rates_without_common_divisor(generator: torch.Generator) -> None:
    """A sine stays a sine of the same frequency."""
    time = torch.arange(20_000, dtype=torch.float64)
    wave = torch.sin(2 * math.pi * 1000 * time / 44101).float()[None]
    got = torch.cat(list(resampled(wave.split(3001, dim=1), 44101, 16000)), dim=1)[0].double()
    expected = torch.sin(2 * math.pi * 1000 * torch.arange(len(got), dtype=torch.float64) / 16000)
    assert (got - expected)[100:-100].abs().max() < 1e-3


def test_nothing_is_folded_and_the_band_is_kept() -> None:
    time = torch.arange(44100)
    for frequency, power in ((7000, 0.5), (9000, 0.0)):
        wave = torch.sin(2 * math.pi * frequency * time / 44100)
        assert resample(wave, 44100, 16000)[200:-200].square().mean() == pytest.approx(power, abs=5e-3)


def test_regrouping_keeps_the_signal(generator: torch.Generator) -> None:
    wave = torch.randn(2, 1000, generator=generator)
    for sizes in ([1000], [1, 99, 500, 400], [0, 128, 872]):
        blocks = list(regrouped(wave.split(sizes, dim=1), 128))
        assert [block.shape[1] for block in blocks] == [128] * 7 + [104]
        assert torch.equal(torch.cat(blocks, dim=1), wave)


def test_a_full_scale_sine_has_power_one() -> None:
    wave = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
    power = power_spectrogram(wave, 1024, 256)
    assert power.shape == (513, 63)
    assert power[:, 30].argmax() == 64  # 1000 Hz of 15.625 Hz a bin
    assert power[64, 30] == pytest.approx(1.0, rel=1e-3)


def test_mel_filters_peak_where_the_scale_puts_them() -> None:
    filters = mel_filters(513, 64, 16000)
    assert filters.shape == (513, 64)
    widths = filters.sum(dim=0) * 8000 / 512
    torch.testing.assert_close(widths[20:], torch.ones(44), atol=0.05, rtol=0)  # unit area in Hz
    # Slaney's scale is linear below 1 kHz: the centres there are equally far apart.
    centres = filters.argmax(dim=0).diff()[2:10]
    assert centres.max() - centres.min() <= 1
