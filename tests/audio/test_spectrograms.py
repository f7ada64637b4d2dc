"""Spectrograms in blocks, and pictures of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rectiflow_audio.spectrograms import Spectrogram, spectrogram, stacked


@pytest.mark.parametrize("total", [1, 511, 512, 1023, 1024, 5000, 16_384])
def test_in_blocks_as_in_one(total: int, generator: torch.Generator) -> None:
    wave = torch.randn(total, generator=generator)
    whole = spectrogram(wave)
    assert whole.shape == (513, 1 + total // 512)
    for size in (100, 1000):
        grown = Spectrogram(total)
        for block in wave.split(size):
            grown.add(block)
        torch.testing.assert_close(grown.decibels(), whole, atol=1e-3, rtol=0)


def test_a_tone_stands_where_and_when_it_sounds() -> None:
    time = torch.arange(64_000)
    wave = torch.where(time >= 32_000, torch.sin(2 * math.pi * 2000 * time / 16_000), torch.zeros(64_000))
    decibels = spectrogram(wave, columns=40)
    assert decibels.shape == (513, 40)
    assert decibels[:, :19].max() < -100
    assert decibels[128, 21:39].min() == pytest.approx(0, abs=0.1)
    assert (decibels[:, 25].argmax(), decibels[300, 25] < -80) == (128, True)


def test_mean_power_of_noise() -> None:
    wave = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    power = (10 ** (spectrogram(wave, columns=10) / 10))[10:-10].double()
    # A window w gives white noise of variance 1 the mean power (2 / sum w)^2 sum w^2.
    window = torch.hann_window(1024, dtype=torch.float64)
    expected = 4 * window.square().sum() / window.sum() ** 2
    standard_error = expected / math.sqrt(power.numel() * 200_000 / 10 / 1024)
    assert abs(power.mean() - expected) < 4 * standard_error


def test_one_scale_for_all_rows() -> None:
    loud = torch.zeros(513, 50)
    image = np.asarray(stacked([("loud, 0 dB", loud), ("faint: $x_1", loud - 200), ("half", loud - 40)], 3.0, 16_000))
    assert image.shape[1] == 1000
    height = len(image)
    rows = [image[int(height * place), 300] for place in (0.2, 0.5, 0.8)]
    assert rows[0].sum() > rows[2].sum() > rows[1].sum()
