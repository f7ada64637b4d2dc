"""A network for separation beside torchaudio's Conv-TasNet, for `rectiflow bench peers`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rectiflow.benchmarking.contest import OURS, Contest
from rectiflow.benchmarking.peers.present import Makers, those_installed
from rectiflow_audio.network import SpectralUNet
from rectiflow_audio.representation import Spectra

RATE, SECONDS, QUERY = 8000, 4, 128


def separation(generator: torch.Generator) -> Contest:
    """One evaluation for four seconds of sound: ours from waveform to waveform, as Conv-TasNet at its published size."""
    wave = 0.1 * torch.randn(1, RATE * SECONDS, generator=generator)
    makers: Makers[Callable[[], Tensor]] = {
        OURS: lambda: _ours(wave, generator),
        "torchaudio Conv-TasNet": lambda: _conv_tasnet(wave),
    }
    runs, missing = those_installed(makers)
    return Contest(
        "domains",
        "audio: one evaluation of a separation network",
        runs,
        units=SECONDS,
        unit="second of sound",
        figures=lambda result: {"samples": float(result.shape[-1])},
        missing=missing,
        note="networks of their own sizes: what an evaluation costs, not a race at equal quality",
    )


def _ours(wave: Tensor, generator: torch.Generator) -> Callable[[], Tensor]:
    spectra = Spectra()
    network = SpectralUNet(1, spectra, QUERY, generator=generator).eval().requires_grad_(False)
    query, t = torch.zeros(1, QUERY), torch.zeros(1)

    def separate() -> Tensor:
        mixture = spectra.encode(wave)[:, None]
        return spectra.decode(network(mixture, t, mixture, query)[0][:, 0], wave.shape[-1])

    return separate


def _conv_tasnet(wave: Tensor) -> Callable[[], Tensor]:
    import torchaudio

    network = torchaudio.models.ConvTasNet(num_sources=2).eval().requires_grad_(False)

    def separate() -> Tensor:
        stems: Tensor = network(wave[:, None])
        return stems

    return separate
