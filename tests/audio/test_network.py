"""The network: shapes, any number of frames, what it starts as, and what it listens to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_audio.bands import BandTransformer
from rectiflow_audio.network import FIRST_MASK, SpectralUNet
from rectiflow_audio.representation import Spectra


def inputs(frames: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "x": torch.randn(2, 2, 2, 256, frames, generator=generator),
        "t": torch.rand(2, generator=generator),
        "mixture": torch.randn(2, 1, 2, 256, frames, generator=generator),
        "query": torch.randn(2, 12, generator=generator),
    }


def tiny(generator: torch.Generator, **options: Any) -> SpectralUNet:
    return SpectralUNet(2, Spectra(), 12, (8, 4), (16, 32), generator=generator, **options)


def woken(network: SpectralUNet, generator: torch.Generator) -> SpectralUNet:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("frames", [1, 7, 16, 33])
def test_any_number_of_frames(frames: int, generator: torch.Generator) -> None:
    given = inputs(frames, generator)
    assert woken(tiny(generator), generator)(**given).shape == given["x"].shape


def test_it_starts_as_half_of_the_mixture(generator: torch.Generator) -> None:
    given = inputs(16, generator)
    assert torch.allclose(tiny(generator)(**given), FIRST_MASK * given["mixture"].expand(2, 2, 2, 256, 16))


def test_the_mask_is_a_complex_product(generator: torch.Generator) -> None:
    given = inputs(16, generator)
    network = tiny(generator)
    weight, bias = network.output.weight, network.output.bias
    assert bias is not None
    with torch.no_grad():
        # Channels are (kind, row, column): the imaginary mask of the second stem is 1 everywhere, all else 0.
        bias.unflatten(0, (10, 32))[3] = 1.0
    found = network(**given)
    y = torch.view_as_complex(given["mixture"].movedim(2, -1).contiguous())[:, 0]
    second = torch.view_as_complex(found.movedim(2, -1).contiguous())[:, 1]
    assert torch.allclose(second, y * (FIRST_MASK + 1j), atol=1e-5)
    assert (weight == 0).all()


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
    assert (turned(network(**given)) - network(**other)).abs().max() < 1e-3
    assert (network(**given) - network(**other)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["x", "t", "mixture", "query"])
def test_it_listens_to_everything(name: str, generator: torch.Generator) -> None:
    network = woken(tiny(generator), generator)
    given = inputs(16, generator)
    other = {**given, name: given[name] + 0.3}
    assert (network(**given) - network(**other)).abs().max() > 1e-4


def test_averages_start_from_the_same_weights(generator: torch.Generator) -> None:
    plain, average = tiny(generator), tiny(generator, until=True)
    woken(plain, generator)
    average.load_state_dict({**average.state_dict(), **plain.state_dict()})
    given = inputs(8, generator)
    assert torch.allclose(plain(**given), average(**given, until=torch.ones(2)), atol=1e-6)


def test_sizes_that_do_not_fit(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="multiple of 24"):
        SpectralUNet(2, Spectra(), 12, (3, 4), (16, 32, 32, 32), generator=generator)
    with pytest.raises(ConfigError, match="heads"):
        tiny(generator, heads=5)


def bands(generator: torch.Generator, **options: Any) -> BandTransformer:
    return BandTransformer(2, Spectra(), 12, bands=8, width=32, depth=2, heads=2, generator=generator, **options)


@pytest.mark.parametrize("frames", [1, 7, 16])
def test_the_transformer_takes_any_number_of_frames(frames: int, generator: torch.Generator) -> None:
    given = inputs(frames, generator)
    network = bands(generator)
    assert torch.allclose(network(**given), FIRST_MASK * given["mixture"].expand_as(given["x"]))
    assert woken(network, generator)(**given).shape == given["x"].shape


@pytest.mark.parametrize("name", ["x", "t", "mixture", "query", "tokens"])
def test_the_transformer_listens_to_everything(name: str, generator: torch.Generator) -> None:
    network = woken(bands(generator), generator)
    given = {**inputs(8, generator), "tokens": torch.randn(2, 3, 12, generator=generator)}
    given["tokens_mask"] = torch.tensor([[True, True, True], [True, True, False]])
    other = {**given, name: given[name] + 0.3}
    assert (network(**given) - network(**other)).abs().max() > 1e-4


def test_words_that_are_not_there_are_not_heard(generator: torch.Generator) -> None:
    network = woken(bands(generator), generator)
    given = {**inputs(8, generator), "tokens": torch.randn(2, 3, 12, generator=generator)}
    given["tokens_mask"] = torch.tensor([[True, False, False], [False, False, False]])
    padded = {**given, "tokens": given["tokens"] + 5 * ~given["tokens_mask"][..., None]}
    assert torch.allclose(network(**given), network(**padded), atol=1e-5)
    without = network(**inputs(8, torch.Generator().manual_seed(0)))
    assert without.isfinite().all()


def test_bands_divide_the_spectrum(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="bands=7"):
        BandTransformer(2, Spectra(), 12, bands=7, generator=generator)
