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
from rectiflow_audio.masking import Masking
from rectiflow_audio.representation import Spectra


class Block(nn.Module):
    """A 3x3 convolution and a map of each place around a residual connection, steered by the condition.

    It does not start as identity, as such blocks often do: while both the blocks and the network's output are at zero, half of
    the mixture for every query is a saddle that training does not leave.

    Maps x (B, H, W, width) and a condition (B, D) to x's shape.
    """

    def __init__(self, width: int, condition: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.modulation = linear(condition, 2 * width, generator=generator)
        self.mix = convolution(width, width, 3, generator=generator)
        self.output = linear(width, width, generator=generator)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The block's output."""
        hidden = modulated(x, self.modulation(condition))
        # Channels lie last in memory: maps of places are matrix products, and convolutions take them as they are.
        hidden = self.mix(hidden.movedim(-1, 1)).movedim(1, -1)
        result: Tensor = x + self.output(F.silu(hidden))
        return result


class Stack(nn.Module):
    """Blocks one after the other."""

    def __init__(self, width: int, condition: int, count: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, condition, generator=generator) for _ in range(count))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The last block's output for x (B, H, W, width) and condition (B, D)."""
        for block in self.blocks:
            x = block(x, condition)
        return x


class Context(nn.Module):
    """Self-attention over all places of a map (B, H, W, width), with rotary positions; starts as identity."""

    def __init__(self, width: int, heads: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.attention = Attention(width, heads, generator=generator)
        nn.init.zeros_(self.attention.output.weight)
        self.head_width = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """x plus what each place gathered from the others."""
        table = rotary_table(grid_coordinates(*x.shape[1:3], device=x.device), self.head_width)
        gathered = self.attention(F.layer_norm(x, x.shape[-1:]).flatten(1, 2), rotary=table)
        result: Tensor = x + gathered.unflatten(1, x.shape[1:3])
        return result


class UNet(nn.Module):
    """A U-Net over a map of places, steered by time and query; what places are shown and answer is its subclasses' matter.

    Each level of `widths` after the first halves both axes, and has `blocks` blocks on the way down and on the way up. All
    places of the last level attend to each other.

    Args:
        inputs: numbers that a place is shown as.
        outputs: numbers that it answers.
        rows: places along the frequencies, a multiple of 2^(levels - 1).
        profile: numbers that the query alone says, 0 at first.
        query_width: D of the queries.
        widths: channels of each level.
        blocks: a level, down and up.
        heads: of the attention; four times their number divides the last width.
        until: whether the network gives averages over steps, `forward(…, until=r)`.
        generator: of the first weights.

    Raises:
        ConfigError: a width that heads do not divide.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rows: int,
        profile: int,
        query_width: int,
        widths: Sequence[int],
        blocks: int,
        heads: int,
        until: bool,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.multiple: int = 2 ** (len(widths) - 1)
        condition = 2 * widths[0]
        self.time = ConditionEmbedding(condition, until=until, generator=generator)
        self.query = linear(query_width, condition, generator=generator)
        self.input = linear(inputs, widths[0], generator=generator)
        self.places = nn.ParameterList(
            0.5 * torch.randn(rows // 2**level, 1, width, generator=generator) for level, width in enumerate(widths)
        )

        def stack(width: int) -> Stack:
            return Stack(width, condition, blocks, generator=generator)

        self.down = nn.ModuleList(stack(width) for width in widths)
        self.up = nn.ModuleList(stack(width) for width in widths[:-1])
        pairs = list(itertools.pairwise(widths))
        self.narrow = nn.ModuleList(linear(4 * a, b, generator=generator) for a, b in pairs)
        self.widen = nn.ModuleList(linear(b, 4 * a, generator=generator) for a, b in pairs)
        self.context = Context(widths[-1], heads, generator=generator)
        self.last = stack(widths[-1])
        self.modulation = linear(condition, 2 * widths[0], generator=generator)
        self.profile = linear(query_width, profile, generator=generator, zero=True)
        self.output = linear(widths[0], outputs, generator=generator, zero=True)

    def condition(self, t: Tensor, query: Tensor, until: Tensor | None) -> tuple[Tensor, Tensor]:
        """What steers the blocks (B, condition), and what the query alone says (B, profile), at times t (B,)."""
        # Queries have unit length; an entry should have unit variance, as other inputs do.
        asked = query * query.shape[-1] ** 0.5
        return F.silu(self.time(t, until=until) + self.query(asked)), self.profile(asked)

    def trunk(self, places: Tensor, condition: Tensor) -> Tensor:
        """What the U-Net answers to places (B, H, W, inputs), W a `multiple`: (B, H, W, outputs)."""
        x = self.input(places)
        skips = []
        for level, stack in enumerate(self.down):
            if level:
                x = self.narrow[level - 1](rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=2, q=2))
            x = stack(x + self.places[level], condition)
            skips.append(x)
        x = self.last(self.context(x), condition)
        for level in reversed(range(len(self.up))):
            x = skips[level] + rearrange(self.widen[level](x), "b h w (p q c) -> b (h p) (w q) c", p=2, q=2)
            x = self.up[level](x, condition)
        result: Tensor = self.output(F.silu(modulated(x, self.modulation(condition))))
        return result


class SpectralUNet(UNet):
    """Says what stems are by masks on the mixture, and how sure it is; see `Masking`.

    Patches of `patch` (bands, frames) are the first level's places. Any number of frames will do.

    Args:
        stems: K.
        spectra: of the stems.
        query_width: D of the queries.
        patch: bands and frames a patch.
        widths, blocks, heads, until: see `UNet`.
        generator: of the first weights.

    Raises:
        ConfigError: patch and levels that do not divide the bands, or a width that heads do not divide.
    """

    def __init__(
        self,
        stems: int,
        spectra: Spectra,
        query_width: int,
        patch: Sequence[int] = (4, 4),
        widths: Sequence[int] = (64, 128, 192),
        blocks: int = 1,
        heads: int = 4,
        until: bool = False,
        *,
        generator: torch.Generator,
    ) -> None:
        masking = Masking(stems, spectra.bins, patch)
        coarsest = masking.tall * 2 ** (len(widths) - 1)
        if masking.bands % coarsest:
            raise ConfigError(
                f"model.patch={list(patch)} with {len(widths)} levels needs a multiple of {coarsest} bands; "
                f"there are {masking.bands}: use another patch or fewer widths"
            )
        super().__init__(
            masking.inputs,
            masking.outputs,
            masking.bands // masking.tall,
            stems * masking.bands,
            query_width,
            widths,
            blocks,
            heads,
            until,
            generator=generator,
        )
        self.masking = masking

    @property
    def period(self) -> int:
        """Frames by which a mixture may move for its stems to move with it: places of the coarsest level last so long."""
        return self.masking.wide * self.multiple

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        mixture: Tensor,
        query: Tensor,
        item: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The stems without the state (B, K, 2, F, N), and the logarithm of the variance left open (B, K, 1, F, N).

        Args:
            x: what the states at times t tell of the stems (B, K, 2, F, N), 0 for nothing.
            t: (B,) in [0, 1].
            mixture: (B, 1, 2, F, N).
            query: (B, D), 0 for none.
            item: which mixture it is, for those who evaluate; not looked at.
            until: (B,), for a network of averages.
        """
        condition, profile = self.condition(t, query, until)
        patches = self.masking.patches(x, mixture, multiple=self.multiple)
        return self.masking.masked(mixture, patches, self.trunk(patches, condition), profile)


def modulated(x: Tensor, modulation: Tensor) -> Tensor:
    """x (B, H, W, width), each place brought to mean 0 and variance 1, times 1 + scale, plus shift: both of (B, 2 width)."""
    scale, shift = modulation[:, None, None].chunk(2, dim=-1)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)
