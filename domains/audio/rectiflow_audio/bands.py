"""The separating network for a GPU: a transformer over bands and frames in turn, which listens to every word of the query."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import ConditionEmbedding, grid_coordinates
from rectiflow.nn.layers import linear
from rectiflow.nn.rotary import rotary_table
from rectiflow.nn.transformer import AdaptiveBlock, AdaptiveOutput
from rectiflow_audio.masking import Masking
from rectiflow_audio.representation import Spectra


class Listening(nn.Module):
    """Attention of patches (B, N, width) to the words (B, M, D) of a query; starts as identity."""

    def __init__(self, width: int, heads: int, words: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width, generator=generator)
        self.key_value = linear(words, 2 * width, generator=generator)
        self.output = linear(width, width, generator=generator, zero=True)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """x plus what each patch took from the words where the mask (B, M) is True."""
        query = rearrange(self.query(F.layer_norm(x, x.shape[-1:])), "b n (h c) -> b h n c", h=self.heads)
        key, value = rearrange(self.key_value(words), "b m (s h c) -> s b h m c", s=2, h=self.heads)
        gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        result: Tensor = x + self.output(rearrange(gathered, "b h n c -> b n (h c)"))
        return result


class BandTransformer(nn.Module):
    """Says what stems are as `network.SpectralUNet` does, by attention along time in each band, then across bands in each frame.

    Args:
        stems: K.
        spectra: of the stems; `bands` divides what their frequencies are merged into, see `Masking`.
        query_width: D of the queries.
        bands: of equally many merged frequencies, with weights of its own at both ends of the network.
        frames: a patch.
        width: channels, a multiple of four times `heads`.
        depth: layers of listening, attention along time and across bands.
        heads: of every attention.
        until: whether the network gives averages over steps, `forward(…, until=r)`.
        tokens: whether it is told the words of a query beside its one vector.
        generator: of the first weights.

    Raises:
        ConfigError: bands that do not divide the merged frequencies.
    Source: arXiv 2309.02612 (bands and rotary positions); arXiv 2212.09748 (conditions).
    """

    def __init__(
        self,
        stems: int,
        spectra: Spectra,
        query_width: int,
        bands: int = 32,
        frames: int = 2,
        width: int = 384,
        depth: int = 8,
        heads: int = 8,
        until: bool = False,
        tokens: bool = True,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        merged = spectra.bins // 2
        if merged % bands:
            raise ConfigError(
                f"model.bands={bands} does not divide the {merged} that {spectra.bins} frequencies are merged into"
            )
        self.masking = Masking(stems, spectra.bins, (merged // bands, frames))
        self.bands, self.tokens = bands, tokens
        self.head_width = width // heads
        self.time = ConditionEmbedding(width, until=until, generator=generator)
        self.query = linear(query_width, width, generator=generator)
        self.profile = linear(query_width, stems * merged, generator=generator, zero=True)
        inputs = self.masking.inputs
        self.input = nn.Parameter(torch.randn(bands, inputs, width, generator=generator) / inputs**0.5)
        self.listening = nn.ModuleList(Listening(width, heads, query_width, generator=generator) for _ in range(depth))
        self.along = nn.ModuleList(AdaptiveBlock(width, heads, generator=generator) for _ in range(depth))
        self.across = nn.ModuleList(AdaptiveBlock(width, heads, generator=generator) for _ in range(depth))
        self.norm = AdaptiveOutput(width, width, generator=generator)
        nn.init.xavier_uniform_(self.norm.output.weight, generator=generator)
        self.output = nn.Parameter(torch.zeros(bands, width, self.masking.outputs))

    @property
    def period(self) -> int:
        """Frames by which a mixture may move for its stems to move with it."""
        return self.masking.wide

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        mixture: Tensor,
        query: Tensor,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        item: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as for `SpectralUNet`; tokens (B, M, D), their mask (B, M)."""
        bands = self.bands
        asked = query * query.shape[-1] ** 0.5
        condition = F.silu(self.time(t, until=until) + self.query(asked))
        words, mask = asked[:, None], torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        if tokens is not None and tokens_mask is not None:
            words = torch.cat([words, tokens * query.shape[-1] ** 0.5], dim=1)
            mask = torch.cat([mask, tokens_mask], dim=1)
        patches = self.masking.patches(x, mixture)
        hidden = torch.einsum("bgni,gid->bgnd", patches, self.input)
        count = hidden.shape[2]
        in_time = rotary_table(grid_coordinates(1, count, device=x.device), self.head_width)
        in_band = rotary_table(grid_coordinates(bands, 1, device=x.device), self.head_width)
        by_band, by_frame = condition.repeat_interleave(bands, 0), condition.repeat_interleave(count, 0)
        for listening, along, across in zip(self.listening, self.along, self.across, strict=True):
            hidden = listening(hidden.flatten(1, 2), words, mask)
            hidden = along(rearrange(hidden, "b (g n) d -> (b g) n d", g=bands), by_band, rotary=in_time)
            hidden = across(rearrange(hidden, "(b g) n d -> (b n) g d", g=bands), by_frame, rotary=in_band)
            hidden = rearrange(hidden, "(b n) g d -> b g n d", n=count)
        hidden = rearrange(self.norm(hidden.flatten(1, 2), condition), "b (g n) d -> b g n d", g=bands)
        output = torch.einsum("bgnd,gdo->bgno", F.silu(hidden), self.output)
        return self.masking.masked(mixture, patches, output, self.profile(asked))
