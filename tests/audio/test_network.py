"""The network: shapes, any number of frames, what it starts as, and what it listens to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow_audio.bands import BandTransformer
from rectiflow_audio.masking import FIRST_MASK, Masking, bands_of
from rectiflow_audio.network import SpectralUNet
from rectiflow_audio.representation import POWER, Spectra


def inputs(frames: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "x": torch.randn(2, 2, 2, 256, frames, generator=generator),
        "t": torch.rand(2, generator=generator),
        "mixture": torch.randn(2, 1, 2, 256, frames, generator=generator),
        "query": torch.randn(2, 12, generator=generator),
    }


def tiny(generator: torch.Generator, **options: Any) -> SpectralUNet:
    return SpectralUNet(2, Spectra(), 12, (4, 4), (16, 32), generator=generator, **options)


def woken(network: nn.Module, generator: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("frames", [1, 7, 16, 33])
def test_any_number_of_frames(frames: int, generator: torch.Generator) -> None:
    given = inputs(frames, generator)
    stems, doubt = woken(tiny(generator), generator)(**given)
    assert stems.shape == given["x"].shape
    assert doubt.shape == (2, 2, 1, 256, frames)


def test_it_starts_as_half_of_the_mixture_and_leaves_all_of_it_open(generator: torch.Generator) -> None:
    given = inputs(16, generator)
    stems, doubt = tiny(generator)(**given)
    assert torch.allclose(stems, FIRST_MASK * given["mixture"].expand(2, 2, 2, 256, 16))
    variance = given["mixture"].square().mean(2, keepdim=True)[..., :64, :]  # lower frequencies are not merged
    assert torch.allclose(POWER * doubt[..., :64, :].exp(), variance.expand(2, 2, 1, 64, 16), atol=1e-4)


def test_masks_and_doubts_are_where_the_output_says(generator: torch.Generator) -> None:
    """Band 70, of two frequencies, in frame 5: the second stem is all of the mixture there, within e times its deviation."""
    given = inputs(16, generator)
    masking = Masking(2, 256, (4, 4))
    patches = masking.patches(given["x"], given["mixture"])
    output = torch.zeros(2, 32, 4, masking.outputs).unflatten(-1, (3, 2, 4, 4))
    output[:, 17, 1, 0, 1, 2, 1] = 50.0
    output[:, 17, 1, 1, 1, 2, 1] = 1.0
    found, doubt = masking.masked(given["mixture"], patches, output.flatten(-4), torch.zeros(2, 256))
    change = found - FIRST_MASK * given["mixture"]
    expected = torch.zeros_like(change)
    expected[:, 1, :, 76:78, 5] = 0.5 * given["mixture"][:, 0, :, 76:78, 5]
    assert torch.allclose(change, expected, atol=1e-6)
    wider = (
        doubt - masking.masked(given["mixture"], patches, torch.zeros_like(output).flatten(-4), torch.zeros(2, 256))[1]
    )
    expected = torch.zeros_like(wider)
    expected[:, 1, :, 76:78, 5] = 2.0
    assert torch.allclose(wider, expected, atol=1e-5)


def test_contrast_divides_the_loud_places_of_a_patch_from_the_others(generator: torch.Generator) -> None:
    given = inputs(16, generator)
    masking = Masking(2, 256, (4, 4))
    patches = masking.patches(given["x"], given["mixture"])
    output = torch.zeros(2, 32, 4, 3, 2, 16)
    output[..., 2, 0, :] = 100.0
    found, _ = masking.masked(given["mixture"], patches, output.flatten(-3), torch.zeros(2, 256))
    power = given["mixture"].square().sum(2)[:, 0, :4, :4]
    loud = torch.log(power) > torch.log(power).mean((1, 2), keepdim=True)
    kept = found[:, 0, :, :4, :4].square().sum(1) / power
    assert torch.allclose(kept.round(), loud.float())


def test_merged_frequencies_and_what_they_hold(generator: torch.Generator) -> None:
    membership = bands_of(256)
    assert membership.shape == (128, 256)
    assert torch.equal(membership.sum(0), torch.ones(256))
    assert membership.sum(1).unique_consecutive().tolist() == [1, 2, 4]
    given = inputs(4, generator)
    shown = Masking(2, 256, (4, 4)).patches(0 * given["x"], given["mixture"])[:, 25, 0].unflatten(-1, (6, 4, 4))
    power = given["mixture"].square().sum(2)[:, 0, 144:160].reshape(2, 4, 4, 4).mean(2)
    assert torch.allclose(shown[:, 1], 3 * (power + 1e-4).sqrt() - 0.6, atol=1e-5)
    assert torch.allclose(shown[:, 0], 0.3 * (power + 1e-4).log() + 1.2, atol=1e-5)
    assert (shown[:, 2:] == 0).all()


@pytest.mark.parametrize("kind", ["unet", "bands"])
def test_phases_go_through_and_are_not_looked_at(kind: str, generator: torch.Generator) -> None:
    network = tiny(generator) if kind == "unet" else bands(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    given = inputs(16, generator)
    angle = 2 * torch.pi * torch.rand(2, 1, 256, 16, generator=generator)

    def turned(states: Tensor) -> Tensor:
        plain = torch.view_as_complex(states.movedim(2, -1).contiguous())
        return torch.view_as_real(plain * torch.exp(1j * angle)).movedim(-1, 2)

    other = {**given, "x": turned(given["x"]), "mixture": turned(given["mixture"])}
    (stems, doubt), (turned_stems, same_doubt) = network(**given), network(**other)
    assert (turned(stems) - turned_stems).abs().max() < 1e-3
    assert (stems - turned_stems).abs().max() > 0.1
    assert (doubt - same_doubt).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["unet", "bands"])
def test_stems_move_with_the_mixture_by_whole_periods_only(kind: str, generator: torch.Generator) -> None:
    """A sound in the middle of silence; what the edges of the silence do to it is far below what a half period does."""
    network = tiny(generator) if kind == "unet" else bands(generator)
    woken(network, generator)
    given = inputs(24, generator)
    given["x"] = given["x"] * 0.1

    def at(place: int) -> Tensor:
        around = {name: F.pad(given[name], (place, 144 - place)) for name in ("x", "mixture")}
        return network(**{**given, **around})[0][..., place : place + 24]

    whole = (at(72) - at(72 + 5 * network.period)).abs().mean()
    half = (at(72) - at(72 + 5 * network.period // 2)).abs().mean()
    assert network.period == {"unet": 8, "bands": 2}[kind]
    assert whole < 0.05 * half


@pytest.mark.parametrize("name", ["x", "t", "mixture", "query"])
def test_it_listens_to_everything(name: str, generator: torch.Generator) -> None:
    network = woken(tiny(generator), generator)
    given = inputs(16, generator)
    other = {**given, name: given[name] + 0.3}
    for one, another in zip(network(**given), network(**other), strict=True):
        assert (one - another).abs().max() > 1e-4


def test_averages_start_from_the_same_weights(generator: torch.Generator) -> None:
    plain, average = tiny(generator), tiny(generator, until=True)
    woken(plain, generator)
    average.load_state_dict({**average.state_dict(), **plain.state_dict()})
    given = inputs(8, generator)
    assert torch.allclose(plain(**given)[0], average(**given, until=torch.ones(2))[0], atol=1e-6)


def test_sizes_that_do_not_fit(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        SpectralUNet(2, Spectra(), 12, (3, 4), (16, 32), generator=generator)
    with pytest.raises(ConfigError, match="multiple of 256"):
        SpectralUNet(2, Spectra(), 12, (32, 4), (16, 32, 32, 32), generator=generator)
    with pytest.raises(ConfigError, match="by eights"):
        SpectralUNet(2, Spectra(n_fft=512), 12, generator=generator)
    with pytest.raises(ConfigError, match="heads"):
        tiny(generator, heads=5)


def bands(generator: torch.Generator, **options: Any) -> BandTransformer:
    return BandTransformer(2, Spectra(), 12, bands=8, width=32, depth=2, heads=2, generator=generator, **options)


@pytest.mark.parametrize("frames", [1, 7, 16])
def test_the_transformer_takes_any_number_of_frames(frames: int, generator: torch.Generator) -> None:
    given = inputs(frames, generator)
    network = bands(generator)
    assert torch.allclose(network(**given)[0], FIRST_MASK * given["mixture"].expand_as(given["x"]))
    stems, doubt = woken(network, generator)(**given)
    assert stems.shape == given["x"].shape
    assert doubt.shape == (2, 2, 1, 256, frames)


@pytest.mark.parametrize("name", ["x", "t", "mixture", "query", "tokens"])
def test_the_transformer_listens_to_everything(name: str, generator: torch.Generator) -> None:
    network = woken(bands(generator), generator)
    given = {**inputs(8, generator), "tokens": torch.randn(2, 3, 12, generator=generator)}
    given["tokens_mask"] = torch.tensor([[True, True, True], [True, True, False]])
    other = {**given, name: given[name] + 0.3}
    for one, another in zip(network(**given), network(**other), strict=True):
        assert (one - another).abs().max() > 1e-4


def test_words_that_are_not_there_are_not_heard(generator: torch.Generator) -> None:
    network = woken(bands(generator), generator)
    given = {**inputs(8, generator), "tokens": torch.randn(2, 3, 12, generator=generator)}
    given["tokens_mask"] = torch.tensor([[True, False, False], [False, False, False]])
    padded = {**given, "tokens": given["tokens"] + 5 * ~given["tokens_mask"][..., None]}
    assert torch.allclose(network(**given)[0], network(**padded)[0], atol=1e-5)
    without, _ = network(**inputs(8, torch.Generator().manual_seed(0)))
    assert without.isfinite().all()


def test_bands_divide_the_spectrum(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="bands=7"):
        BandTransformer(2, Spectra(), 12, bands=7, generator=generator)
