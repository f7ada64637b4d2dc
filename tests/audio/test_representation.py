"""Spectra: the inverse is exact, the compression is what it says, and gradients are finite in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow_audio.representation import LEVEL, Spectra, to_level


@pytest.mark.parametrize("length", [1, 255, 16000, 16001, 163840])
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_inverse_is_exact(length: int, exponent: float, generator: torch.Generator) -> None:
    spectra = Spectra(exponent=exponent)
    wave = 0.3 * torch.randn(2, 3, length, generator=generator)
    encoded = spectra.encode(wave)
    assert encoded.shape == (2, 3, 2, 256, spectra.frames(length))
    back = spectra.decode(encoded, length)
    assert back.shape == wave.shape
    assert (back - wave).abs().max() < 1e-5
    assert 10 * torch.log10(wave.square().sum() / (back - wave).square().sum()) > 90


def test_it_is_the_compressed_fourier_transform(generator: torch.Generator) -> None:
    wave = torch.randn(2000, generator=generator, dtype=torch.float64)
    padded = np.pad(wave.numpy(), 255)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(510) / 510)
    found = Spectra().encode(wave).numpy()
    for frame in (0, 3, 11):
        z = np.fft.rfft(window * padded[170 * frame : 170 * frame + 510])
        expected = 0.4 * np.abs(z) ** 0.5 * np.exp(1j * np.angle(z))
        assert np.abs(found[0, :, frame] + 1j * found[1, :, frame] - expected).max() < 1e-9


def test_linear_spectra_add_up_and_compressed_ones_do_not(generator: torch.Generator) -> None:
    first, second = torch.randn(2, 4000, generator=generator)
    for exponent, adds in ((1.0, True), (0.5, False)):
        spectra = Spectra(exponent=exponent)
        total = spectra.encode(first) + spectra.encode(second)
        assert torch.allclose(total, spectra.encode(first + second), atol=1e-4) == adds


def test_magnitudes_are_linear(generator: torch.Generator) -> None:
    wave = torch.randn(4000, generator=generator)
    expected = Spectra(exponent=1.0, scale=1.0).encode(wave).norm(dim=0)
    assert torch.allclose(Spectra().magnitude(Spectra().encode(wave)), expected, rtol=1e-4, atol=1e-4)


def test_silence_has_finite_gradients() -> None:
    spectra = Spectra()
    wave = torch.zeros(1000, requires_grad=True)
    states = torch.zeros(2, 256, 6, requires_grad=True)
    (spectra.encode(wave).sum() + spectra.decode(states, 1000).sum()).backward()
    assert wave.grad is not None
    assert states.grad is not None
    assert torch.isfinite(wave.grad).all()
    assert torch.isfinite(states.grad).all()


def test_levels(generator: torch.Generator) -> None:
    waves = torch.stack([0.7 * torch.randn(5000, generator=generator), torch.zeros(5000)])
    levelled = waves * to_level(waves)
    assert levelled[0].square().mean().sqrt() == pytest.approx(LEVEL, rel=1e-5)
    assert (levelled[1] == 0).all()


@pytest.mark.parametrize("wrong", [{"n_fft": 511}, {"hop": 0}, {"hop": 400}, {"exponent": 0.0}, {"scale": -1.0}])
def test_what_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Spectra(**wrong)  # type: ignore[arg-type]
