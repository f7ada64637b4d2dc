"""The separating network: a convolutional U-Net over patches of the spectrogram, steered by time and query."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import ConditionEmbedding, grid_coordinates
from rectiflow.nn.layers import convolution, linear
from rectiflow.nn.rotary import rotary_table
from rectiflow.nn.transformer import Attention
from rectiflow_audio.representation import Spectra

FAINT = 1e-4
"""Power of a place in the spectrogram, of about 0.1 on average, below which its phase fades out."""
FIRST_MASK = 0.5
"""Mask that an untrained network puts on the mixture for every stem."""


class Block(nn.Module):
    """A 3x3 and a 1x1 convolution around a residual connection, steered by the condition.

    It does not start as identity, as such blocks often do: while both the blocks and the network's output are at zero, half of
    the mixture for every query is a saddle that training does not leave.

    Maps x (B, width, H, W) and a condition (B, D) to x's shape.
    """

    def __init__(self, width: int, condition: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = _group_norm(width)
        self.modulation = linear(condition, 2 * width, generator=generator)
        self.mix = convolution(width, width, 3, generator=generator)
        self.output = convolution(width, width, 1, generator=generator)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The block's output."""
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = F.silu(torch.addcmul(shift, self.norm(x), 1 + scale))
        result: Tensor = x + self.output(F.silu(self.mix(hidden)))
        return result


class Stack(nn.Module):
    """Blocks one after the other."""

    def __init__(self, width: int, condition: int, count: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, condition, generator=generator) for _ in range(count))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The last block's output for x (B, width, H, W) and condition (B, D)."""
        for block in self.blocks:
            x = block(x, condition)
        return x


class Context(nn.Module):
    """Self-attention over all patches of a map (B, width, H, W), with rotary positions; starts as identity."""

    def __init__(self, width: int, heads: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = _group_norm(width)
        self.attention = Attention(width, heads, generator=generator)
        nn.init.zeros_(self.attention.output.weight)
        self.head_width = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """x plus what each patch gathered from the others."""
        height, wide = x.shape[2:]
        table = rotary_table(grid_coordinates(height, wide, device=x.device), self.head_width)
        gathered = self.attention(rearrange(self.norm(x), "b c h w -> b (h w) c"), rotary=table)
        result: Tensor = x + rearrange(gathered, "b (h w) c -> b c h w", h=height)
        return result


class SpectralUNet(nn.Module):
    """Estimates stems as a complex mask on the mixture, plus a gated part of the state, plus an additive term.

    It sees no phases: see `seen` and `estimate`.

    Patches of `patch` (frequencies, frames) are the first level's positions; each further level of `widths` halves both axes and
    has `blocks` blocks on the way down and on the way up. All patches of the last level attend to each other. Any number of
    frames will do.

    Args:
        stems: K.
        spectra: of the stems.
        query_width: D of the queries.
        patch: frequencies and frames a patch.
        widths: channels of each level.
        blocks: a level, down and up.
        heads: of the attention; four times their number divides the last width.
        until: whether the network gives averages over steps, `forward(…, until=r)`.
        generator: of the first weights.

    Raises:
        ConfigError: patch and levels that do not divide the frequencies, or a width that heads do not divide.
    """

    def __init__(
        self,
        stems: int,
        spectra: Spectra,
        query_width: int,
        patch: Sequence[int] = (8, 4),
        widths: Sequence[int] = (64, 128, 192),
        blocks: int = 1,
        heads: int = 4,
        until: bool = False,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.patch = (int(patch[0]), int(patch[1]))
        self.stems = stems
        bins = spectra.bins
        coarsest = self.patch[0] * 2 ** (len(widths) - 1)
        if bins % coarsest:
            raise ConfigError(
                f"model.patch={list(patch)} with {len(widths)} levels needs a multiple of {coarsest} frequencies; "
                f"the spectra have {bins}: use other widths or n_fft"
            )
        condition = 2 * widths[-1]
        size = self.patch[0] * self.patch[1]
        self.time = ConditionEmbedding(condition, until=until, generator=generator)
        self.query = linear(query_width, condition, generator=generator)
        self.input = convolution((2 * stems + 2) * size, widths[0], 1, generator=generator)
        self.places = nn.ParameterList(
            torch.randn(width, bins // self.patch[0] // 2**level, 1, generator=generator)
            for level, width in enumerate(widths)
        )

        def stack(width: int) -> Stack:
            return Stack(width, condition, blocks, generator=generator)

        self.down = nn.ModuleList(stack(width) for width in widths)
        self.up = nn.ModuleList(stack(width) for width in widths[:-1])
        pairs = list(itertools.pairwise(widths))
        self.narrow = nn.ModuleList(convolution(4 * a, b, 1, generator=generator) for a, b in pairs)
        self.widen = nn.ModuleList(convolution(b, 4 * a, 1, generator=generator) for a, b in pairs)
        self.context = Context(widths[-1], heads, generator=generator)
        self.last = stack(widths[-1])
        self.norm = _group_norm(widths[0])
        self.modulation = linear(condition, 2 * widths[0], generator=generator)
        self.profile = linear(query_width, 2 * stems * bins, generator=generator, zero=True)
        self.output = convolution(widths[0], 5 * stems * size, 1, generator=generator, zero=True)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        mixture: Tensor,
        query: Tensor,
        item: Tensor | None = None,
        until: Tensor | None = None,
    ) -> Tensor:
        """The estimate of the stems (B, K, 2, F, N).

        Args:
            x: stems (B, K, 2, F, N) at times t.
            t: (B,) in [0, 1].
            mixture: (B, 1, 2, F, N).
            query: (B, D), 0 for none.
            item: which mixture it is, for those who evaluate; not looked at.
            until: (B,), for a network of averages.
        """
        frames = x.shape[-1]
        # Queries have unit length; an entry should have unit variance, as other inputs do.
        asked = query * query.shape[-1] ** 0.5
        condition = F.silu(self.time(t, until=until) + self.query(asked))
        step = self.patch[1] * 2 ** (len(self.down) - 1)
        hidden = self.trunk(F.pad(seen(x, mixture), (0, -frames % step)), condition)
        return estimate(x, mixture, hidden[..., :frames], self.profile(asked))

    def trunk(self, features: Tensor, condition: Tensor) -> Tensor:
        """What the U-Net says of features (B, C, F, N), N a multiple of the coarsest patch: (B, 5 K, F, N)."""
        tall, wide = self.patch
        x = self.input(rearrange(features, "b c (f p) (n q) -> b (c p q) f n", p=tall, q=wide))
        skips = []
        for level, stack in enumerate(self.down):
            if level:
                x = self.narrow[level - 1](F.pixel_unshuffle(x, 2))
            x = x + self.places[level]
            x = stack(x, condition)
            skips.append(x)
        x = self.last(self.context(x), condition)
        for level in reversed(range(len(self.up))):
            x = skips[level] + F.pixel_shuffle(self.widen[level](x), 2)
            x = self.up[level](x, condition)
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        x = self.output(F.silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        result: Tensor = rearrange(x, "b (c p q) f n -> b c (f p) (n q)", p=tall, q=wide)
        return result


def seen(x: Tensor, mixture: Tensor) -> Tensor:
    """What a network looks at (B, 2 K + 2, F, N): stems (B, K, 2, F, N) and mixture (B, 1, 2, F, N) without their phases.

    The mixture's magnitude and its logarithm, and each stem turned by minus the mixture's phase, all shifted and stretched to
    about zero mean and unit variance. A phase says nothing of what sounds, and a network that sees it has to learn that first.
    """
    power = mixture.square().sum(2)
    magnitude = (power + FAINT).sqrt()
    cosine, sine = (mixture / magnitude[:, :, None]).unbind(2)
    real, imaginary = x.unbind(2)
    turned = torch.stack([real * cosine + imaginary * sine, imaginary * cosine - real * sine], dim=2)
    level = 0.3 * torch.log(power + FAINT) + 1.2
    return torch.cat([3 * magnitude - 0.6, level, 2 * turned.flatten(1, 2) - 0.3], dim=1)


def estimate(x: Tensor, mixture: Tensor, output: Tensor, profile: Tensor) -> Tensor:
    """Stems M y + G x + D y / |y|, with complex M and D: turn x and y by a phase, and the estimate turns with them.

    Args:
        x: (B, K, 2, F, N).
        mixture: y, (B, 1, 2, F, N).
        output: of the network (B, 5 K, F, N): masks M, less a half and the profile, gates G, and additive terms D.
        profile: (B, 2 K F), the part of the masks that is the same in all frames.
    """
    shape, stems = x.shape, x.shape[1]
    mask, gate, rest = torch.split(output, [2 * stems, stems, 2 * stems], dim=1)
    mask = mask + profile.reshape(len(x), 2 * stems, -1, 1)
    magnitude = (mixture.square().sum(2, keepdim=True) + FAINT).sqrt()
    real, imaginary = (mask.reshape(shape) + rest.reshape(shape) / magnitude).unbind(2)
    real = real + FIRST_MASK
    y_real, y_imaginary = mixture.unbind(2)
    masked = torch.stack([real * y_real - imaginary * y_imaginary, real * y_imaginary + imaginary * y_real], dim=2)
    return masked + gate[:, :, None] * x


def _group_norm(width: int) -> nn.GroupNorm:
    groups = next(groups for groups in (8, 4, 2, 1) if width % groups == 0)
    return nn.GroupNorm(groups, width)
