"""Another architecture to compare with: Conv-TasNet, which masks a learnt representation of the waveform."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.nn.layers import linear
from rectiflow_audio.representation import Spectra
from rectiflow_audio.transforms import conv_tasnet


class QueriedConvTasNet(nn.Module):
    """torchaudio's Conv-TasNet, its encoder's features scaled and shifted by the query; for `recipe=regression`.

    It sees the waveform of the mixture and looks at neither state nor time.

    Args:
        stems: K.
        spectra: of the stems.
        query_width: D of the queries.
        features: of the encoder, each a filter of `kernel` samples, half of it apart.
        kernel: even.
        hidden: channels inside the mask's network.
        layers: of a stack, each with twice the dilation of the one before.
        stacks: one after the other.
        generator: of the query layer's first weights; the others come from torch's own.
    Source: arXiv 1809.07454.
    """

    def __init__(
        self,
        stems: int,
        spectra: Spectra,
        query_width: int,
        features: int = 256,
        kernel: int = 32,
        hidden: int = 128,
        layers: int = 6,
        stacks: int = 2,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.spectra = spectra
        self.stride = kernel // 2
        self.encoder, self.masks, self.decoder = conv_tasnet(stems, features, kernel, hidden, layers, stacks)
        self.query = linear(query_width, 2 * features, generator=generator)

    @property
    def period(self) -> int:
        """Frames by which a mixture may move for its stems to move with it: a whole number of the encoder's steps."""
        return self.stride // math.gcd(self.stride, self.spectra.hop)

    def forward(
        self, x: Tensor, t: Tensor, mixture: Tensor, query: Tensor, item: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The stems (B, K, 2, F, N) of a mixture (B, 1, 2, F, N) for queries (B, D); of what is left open it says nothing, 0."""
        length = (x.shape[-1] - 1) * self.spectra.hop
        wave = self.spectra.decode(mixture[:, 0], length)
        padded = F.pad(wave[:, None], (self.stride, self.stride + -length % self.stride))
        heard = self.encoder(padded)
        scale, shift = self.query(query * query.shape[-1] ** 0.5)[:, :, None].chunk(2, dim=1)
        masked = self.masks(torch.addcmul(shift, heard, 1 + scale)) * heard[:, None]
        waves = self.decoder(rearrange(masked, "b k c n -> (b k) c n"))[..., self.stride : self.stride + length]
        stems: Tensor = self.spectra.encode(rearrange(waves, "(b k) 1 t -> b k t", b=len(x)))
        return stems, torch.zeros_like(t)[:, None, None, None, None]
