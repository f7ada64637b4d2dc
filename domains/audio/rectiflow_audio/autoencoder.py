"""A small variational autoencoder of log-mel spectrograms: patches of four bands by four frames as a few numbers each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.batch import Batch
from rectiflow.errors import DataError
from rectiflow.nn.layers import convolution, linear
from rectiflow.training.batches import Dataset
from rectiflow_audio.mel import SILENT, SPREAD, Mel

PATCH = 4
_SEEN = 6  # numbers a place has before the last convolutions, which smooth what meets at the borders of patches
_SMOOTHING = 16
_SHOWN = 16  # held-out mixtures that its figure is of
_LARGEST = 10.0  # of log variances, either way
DECIBELS = 10 / math.log(10)
"""Of a unit of natural logarithms of power."""


class Plain(nn.Module):
    """A 3x3 convolution and a map of each place of (B, H, W, width) around a residual connection; starts as identity."""

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.mix = convolution(width, width, 3, generator=generator)
        self.output = linear(width, width, generator=generator, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        hidden = self.mix(F.layer_norm(x, x.shape[-1:]).movedim(-1, 1)).movedim(1, -1)
        result: Tensor = x + self.output(F.silu(hidden))
        return result


class MelAutoencoder(nn.Module):
    """Levels (B, M, N) to codes (B, C, M / 4, N / 4) and back.

    Args:
        channels: C.
        width: of the maps of patches.
        blocks: on the way in and on the way out.
        kl: weight of the divergence of codes from N(0, 1), a mean over their entries.
        generator: of the first weights.
    """

    def __init__(self, channels: int, width: int, blocks: int, kl: float, *, generator: torch.Generator) -> None:
        super().__init__()
        self.kl = kl
        self.read = linear(PATCH**2, width, generator=generator)
        self.encoder = nn.Sequential(*(Plain(width, generator=generator) for _ in range(blocks)))
        self.code = linear(width, 2 * channels, generator=generator)
        self.expand = linear(channels, width, generator=generator)
        self.decoder = nn.Sequential(*(Plain(width, generator=generator) for _ in range(blocks)))
        self.write = linear(width, PATCH**2 * _SEEN, generator=generator)
        self.smooth = convolution(_SEEN, _SMOOTHING, 3, generator=generator)
        self.output = convolution(_SMOOTHING, 1, 3, generator=generator)

    def encode(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances (B, C, H, W) of the codes of levels (B, 4 H, 4 W)."""
        patches = rearrange(levels, "b (h p) (w q) -> b h w (p q)", p=PATCH, q=PATCH)
        code = self.code(self.encoder(self.read(patches))).movedim(-1, 1)
        mean, spread = code.chunk(2, dim=1)
        return mean, spread.clamp(-_LARGEST, _LARGEST)

    def decode(self, codes: Tensor) -> Tensor:
        """Levels (B, 4 H, 4 W) of codes (B, C, H, W)."""
        patches = self.write(self.decoder(self.expand(codes.movedim(1, -1))))
        places = rearrange(patches, "b h w (p q c) -> b c (h p) (w q)", p=PATCH, q=PATCH)
        levels: Tensor = self.output(F.silu(self.smooth(places)))[:, 0]
        return levels

    def forward(self, levels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms of the loss of levels (B, 4 H, 4 W): how far the decoded ones are off, and the weighted divergence."""
        mean, log_variance = self.encode(levels)
        mean, log_variance = mean.float(), log_variance.float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        error = self.decode(mean + torch.exp(log_variance / 2) * noise).float() - levels
        return {
            "levels": (error.abs() + error.square()).mean(),
            "kl": self.kl * gaussian_divergence(mean, log_variance).mean(),
        }


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each entry, at least 0: arXiv 1312.6114, appendix B."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


@dataclass
class AutoencoderTask:
    """What the training loop needs to train the autoencoder on stems and on their mixtures; x1 are waveforms (B, K, T).

    held_out: others, for its figures.
    """

    network: nn.Module
    mel: Mel
    held_out: Dataset

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the terms of `MelAutoencoder`."""
        if isinstance(batch.x1, dict):
            raise DataError("the autoencoder is trained on waveforms (B, K, T), not on a product of states")
        heard = torch.cat([batch.x1, batch.x1.sum(1, keepdim=True)], dim=1)
        terms: dict[str, Tensor] = network(padded(self.mel.levels(heard.flatten(0, 1))), generator)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Mean distance in dB of held-out levels and what their codes decode to."""
        waves = self.held_out.__getitems__(list(range(min(_SHOWN, len(self.held_out))))).x1
        if isinstance(waves, dict):
            raise DataError("the autoencoder is judged on waveforms (B, K, T), not on a product of states")
        levels = padded(self.mel.levels(waves.flatten(0, 1)))
        found = network.decode(network.encode(levels)[0])  # type: ignore[operator]  # methods of `MelAutoencoder`
        return {"level_error_db": float((found - levels).detach().abs().mean()) * SPREAD * DECIBELS}


def padded(levels: Tensor) -> Tensor:
    """Levels (..., M, N) with silent frames after the last, to a multiple of four."""
    return F.pad(levels, (0, -levels.shape[-1] % PATCH), value=SILENT)
