"""Log-mel levels and the masks that follow from them: closed forms, torchaudio, and the ideal ratio mask as their ceiling."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio

from rectiflow.errors import ConfigError
from rectiflow_audio.mel import FLOOR, SILENT, Mel
from rectiflow_audio.metrics import si_sdr_improvement
from rectiflow_audio.mixing import Mixtures
from rectiflow_audio.oracles import ideal_ratio_mask
from rectiflow_audio.sounds import SyntheticSounds


def slaney(frequency: float) -> float:
    """Slaney's scale: linear below 1 kHz, logarithmic above, 27 steps to a factor of 6.4."""
    return frequency / (200 / 3) if frequency < 1000 else 15 + 27 * math.log(frequency / 1000) / math.log(6.4)


def test_levels_are_those_of_torchaudios_mel_spectrogram(generator: torch.Generator) -> None:
    wave = 0.1 * torch.randn(2, 3, 5000, generator=generator)
    theirs = torchaudio.transforms.MelSpectrogram(
        16000, 1024, hop_length=160, n_mels=64, norm="slaney", mel_scale="slaney", pad_mode="constant"
    )(wave)
    # Theirs is of the plain transform; ours gives a full-scale sine the power 1.
    expected = (torch.log(theirs * (2 / torch.hann_window(1024).sum()) ** 2 + FLOOR) + 15) / 4
    mel = Mel()
    assert mel.levels(wave).shape == (2, 3, 64, 1 + 5000 // 160) == (2, 3, 64, mel.frames(5000))
    torch.testing.assert_close(mel.levels(wave), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("band", [5, 30, 60])
def test_a_sine_is_loudest_in_the_band_that_it_is_the_middle_of(band: int) -> None:
    steps = [slaney(0) + (slaney(8000) - slaney(0)) * place / 65 for place in range(66)]
    step = steps[band + 1]
    middle = step * 200 / 3 if step < 15 else 1000 * 6.4 ** ((step - 15) / 27)
    wave = 0.5 * torch.sin(2 * math.pi * middle * torch.arange(8000) / 16000)
    levels = Mel().levels(wave)[:, 10:-10]
    assert (levels.argmax(0) == band).all()


def test_powers_undo_levels_and_silence_has_none(generator: torch.Generator) -> None:
    mel = Mel()
    assert torch.allclose(mel.levels(torch.zeros(1, 2000)), torch.full((1, 64, 13), SILENT))
    assert (mel.powers(torch.full((1, 64, 13), SILENT - 0.01)) == 0).all()
    quiet, loud = (mel.powers(mel.levels(gain * torch.randn(1, 4000, generator=generator))) for gain in (0.1, 0.1))
    assert quiet.shape == loud.shape
    wave = torch.randn(1, 4000, generator=generator, dtype=torch.float64)
    ratio = mel.powers(mel.levels(0.1 * wave)) / mel.powers(mel.levels(0.01 * wave))
    assert torch.allclose(ratio, torch.full_like(ratio, 100.0), rtol=1e-6)


def test_masks_share_every_frequency_out(generator: torch.Generator) -> None:
    mel = Mel()
    levels = torch.randn(2, 3, 64, 5, generator=generator).abs()
    masks = mel.masks(levels)
    assert masks.shape == (2, 3, 513, 5)
    assert (masks >= 0).all()
    assert torch.allclose(masks.sum(1), torch.ones(2, 513, 5), atol=1e-6)
    assert torch.allclose(mel.masks(levels[:, :1].expand(-1, 2, -1, -1)), torch.full((2, 2, 513, 5), 0.5), atol=1e-6)
    silent = torch.stack([levels[:, 0], torch.full_like(levels[:, 0], SILENT)], dim=1)
    assert mel.masks(silent)[:, 1].max() < 1e-3
    # Nine times the power everywhere is nine tenths of the mask.
    louder = torch.stack([levels[:, 0] + math.log(9) / 4, levels[:, 0]], dim=1)
    assert torch.allclose(mel.masks(louder)[:, 0], torch.full((2, 513, 5), 0.9), atol=1e-3)


@pytest.mark.parametrize("length", [1, 159, 4000, 4001])
def test_masked_stems_sum_to_the_mixture(length: int, generator: torch.Generator) -> None:
    mel, mixture = Mel(), 0.1 * torch.randn(2, length, generator=generator)
    waves = mel.masked(torch.randn(2, 3, 64, mel.frames(length), generator=generator), mixture)
    assert waves.shape == (2, 3, length)
    assert torch.allclose(waves.sum(1), mixture, atol=1e-5)


def test_exact_levels_come_near_the_ideal_ratio_mask_and_not_above() -> None:
    """What decoding by masks can reach at most, at the resolution of 64 bands; and that phases are the mixture's."""
    items = Mixtures(SyntheticSounds(), 1.0, 12, split="validation")
    waves = torch.stack([items[index].parts for index in range(12)])
    mel, mixture = Mel(), waves.sum(1)
    decoded = mel.masked(mel.levels(waves), mixture)
    found = float(si_sdr_improvement(decoded[:, 0], waves[:, 0], mixture).mean())
    ideal = ideal_ratio_mask(waves[:, 0], waves[:, 1], 1024, 160)[:, 0]
    ceiling = float(si_sdr_improvement(ideal, waves[:, 0], mixture).mean())
    assert 10 < found < ceiling


@pytest.mark.parametrize("wrong", [{"size": 1023}, {"hop": 300}, {"mels": 2}, {"size": 256, "hop": 32, "mels": 128}])
def test_what_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Mel(**wrong)
