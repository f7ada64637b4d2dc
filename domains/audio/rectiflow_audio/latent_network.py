"""The separating network for mel latents: the same U-Net, its places the codes themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow_audio.mel_latent import MelLatent
from rectiflow_audio.network import UNet


class LatentUNet(UNet):
    """Says what the codes of stems are, the mixture's changed by D, and how sure it is.

    Args:
        stems: K.
        spectra: mel latents.
        query_width: D of the queries.
        widths, blocks, heads, until: see `UNet`.
        generator: of the first weights.

    Raises:
        ConfigError: other states than mel latents, or levels that do not divide their bands.
    """

    def __init__(
        self,
        stems: int,
        spectra: MelLatent,
        query_width: int,
        widths: Sequence[int] = (96, 160, 224),
        blocks: int = 1,
        heads: int = 4,
        until: bool = False,
        *,
        generator: torch.Generator,
    ) -> None:
        channels, rows, _ = spectra.shape(1)
        if rows % 2 ** (len(widths) - 1):
            raise ConfigError(
                f"model.widths={list(widths)} halve the {rows} bands of the latents {len(widths) - 1} times, which they do not "
                "allow; use fewer widths or another spectra.mels"
            )
        super().__init__(
            (stems + 1) * channels,
            2 * stems * channels,
            rows,
            stems * channels * rows,
            query_width,
            widths,
            blocks,
            heads,
            until,
            generator=generator,
        )
        self.stems = stems

    @property
    def period(self) -> int:
        """Frames by which a mixture may move for its stems to move with it."""
        return self.multiple

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        mixture: Tensor,
        query: Tensor,
        wave: Tensor | None = None,
        item: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The stems without the state (B, K, C, H, N), and the logarithm of the variance left open, of that shape.

        Args:
            x: what the states at times t tell of the stems (B, K, C, H, N), 0 for nothing.
            t: (B,) in [0, 1].
            mixture: its codes (B, 1, C, H, N).
            query: (B, D), 0 for none.
            wave: the mixture itself, for those who decode; not looked at.
            item: which mixture it is, for those who evaluate; not looked at.
            until: (B,), for a network of averages.
        """
        condition, profile = self.condition(t, query, until)
        frames = x.shape[-1]
        shown = rearrange(torch.cat([x, mixture], dim=1), "b k c h w -> b h w (k c)")
        answer = self.trunk(F.pad(shown, (0, 0, 0, -frames % self.multiple)), condition)[:, :, :frames].float()
        change, doubt = rearrange(answer, "b h w (z k c) -> z b k c h w", z=2, k=self.stems)
        steady = profile.float().reshape(*x.shape[:4], 1)
        return mixture + change + steady, 2 * doubt
