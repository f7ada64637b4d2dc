"""The transformer velocity network: DiT, SiT and FiT by its switches."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import TIME_SCALE, ConditionEmbedding, grid_coordinates, sincos_positions
from rectiflow.nn.layers import linear
from rectiflow.nn.rotary import rotary_table
from rectiflow.nn.transformer import AdaptiveBlock, AdaptiveOutput, packing_mask


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into tokens (B, N, C * patch * patch), row by row; see `unpatchify`.

    Raises ConfigError when `patch` does not divide both sides.
    """
    _grid(images.shape[-2], images.shape[-1], patch)
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, rows: int) -> Tensor:
    """Put tokens (B, N, C * patch * patch) of a grid with `rows` rows back together as images (B, C, H, W)."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", p=patch, q=patch, h=rows)


class Transformer(nn.Module):
    """A transformer v(x, t, label) over image patches; its output is zero before training.

    DiT and SiT are positions="sincos", qk_norm=False, mlp="gelu"; FiT is positions="rope", mlp="swiglu". `size` is the
    side in pixels, or (height, width); any size that `patch` divides is accepted at a call, for neither kind of
    position is tied to one. With `classes` > 0 the label is an integer in 0..classes, where `classes` itself is the
    null label of classifier-free guidance. With `until` it gives average velocities, v(x, t, label, until); with `guidance`
    it takes the scale of that guidance as one more input. With `refiner` > 0 a second transformer of that width and the
    same depth stands beside it, which corrects a velocity, v(x, t, label, velocity=v). `time_scale` is as in
    `ConditionEmbedding`.

    Raises ConfigError for a patch that does not divide the size, heads that do not divide the width, and unknown
    switches; a call raises it for an image or label that does not fit.
    Source: arXiv 2212.09748 (DiT), arXiv 2401.08740 (SiT), arXiv 2402.12376 (FiT).
    """

    table: Tensor

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int],
        classes: int = 0,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        qk_norm: bool = True,
        positions: Literal["sincos", "rope"] = "sincos",
        mlp: Literal["gelu", "swiglu"] = "gelu",
        mlp_ratio: float = 4.0,
        mlp_multiple: int = 8,
        until: bool = False,
        guidance: bool = False,
        refiner: int = 0,
        time_scale: float = TIME_SCALE,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if positions not in ("sincos", "rope"):
            raise ConfigError(f"positions is {positions!r}; it must be 'sincos' or 'rope': choose one of them")
        if depth < 1 or channels < 1:
            raise ConfigError(
                f"depth is {depth} and channels {channels}; both must be at least 1: choose positive ones"
            )
        height, breadth = (size, size) if isinstance(size, int) else size
        self.channels = channels
        self.patch = patch
        self.positions = positions
        self.grid = _grid(height, breadth, patch)
        self.embed = linear(channels * patch * patch, width, generator=generator)
        self.condition = ConditionEmbedding(
            width, classes, until=until, guidance=guidance, time_scale=time_scale, generator=generator
        )
        self.blocks = nn.ModuleList(
            AdaptiveBlock(
                width,
                heads,
                qk_norm=qk_norm,
                mlp=mlp,
                mlp_ratio=mlp_ratio,
                mlp_multiple=mlp_multiple,
                generator=generator,
            )
            for _ in range(depth)
        )
        self.output = AdaptiveOutput(width, channels * patch * patch, generator=generator)
        self.width, self.head_width = width, width // heads
        self.register_buffer("table", self.position_table(grid_coordinates(*self.grid)), persistent=False)
        self.refiner: Transformer | None = None
        if refiner:
            self.refiner = Transformer(
                2 * channels,
                size,
                classes,
                patch,
                refiner,
                depth,
                math.gcd(refiner // 4, heads),
                qk_norm,
                positions,
                mlp,
                mlp_ratio,
                mlp_multiple,
                generator=generator,
            )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        until: Tensor | None = None,
        velocity: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity (B, C, H, W) at images x (B, C, H, W), times t (B,) in [0, 1] and labels (B,).

        With `until` (B,), the average velocity from t to there; with `guidance` (B,), at these scales. With `velocity`
        (B, C, H, W), the refiner's correction of it.
        """
        if velocity is not None:
            return self._correction(x, t, label, velocity)
        if x.shape[1] != self.channels:
            raise ConfigError(f"the images have {x.shape[1]} channels; this network was built for {self.channels}")
        grid = _grid(x.shape[2], x.shape[3], self.patch)
        table = self.table if grid == self.grid else self.position_table(grid_coordinates(*grid, device=x.device))
        tokens = self.forward_tokens(patchify(x, self.patch), self.condition(t, label, until, guidance), table)
        return unpatchify(tokens, self.patch, grid[0])

    def _correction(self, x: Tensor, t: Tensor, label: Tensor | None, velocity: Tensor) -> Tensor:
        if self.refiner is None:
            raise ConfigError("this network has no refiner; build it with one: model.refiner=32 is its width")
        correction: Tensor = self.refiner(torch.cat([x, velocity], dim=1), t, label)
        return correction[:, : self.channels]

    def forward_tokens(self, tokens: Tensor, condition: Tensor, table: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the velocity of patchified tokens, also where rows hold several images and padding.

        `tokens` is (B, N, C * patch * patch); `condition` comes from `self.condition`, (B, width) or one vector a token
        (B, N, width); `table` from `position_table`. With `ids` (B, N) integers, a token attends to those of its own id
        only, and tokens of id 0 are padding, whose output is zero. Source: arXiv 2402.12376 (FiT).
        """
        mask = None if ids is None else packing_mask(ids)
        x = self.embed(tokens)
        rotary = None
        if self.positions == "rope":
            rotary = table
        else:
            x = x + table.to(x.dtype)
        condition = F.silu(condition)
        for block in self.blocks:
            x = block(x, condition, rotary=rotary, mask=mask)
        velocity: Tensor = self.output(x, condition)
        return velocity if ids is None else velocity.masked_fill((ids == 0)[..., None], 0)

    def position_table(self, coordinates: Tensor) -> Tensor:
        """Return the table of positions for `forward_tokens` at grid coordinates (N, 2) or (B, N, 2), row and column."""
        if self.positions == "rope":
            return rotary_table(coordinates, self.head_width)
        return sincos_positions(coordinates, self.width)


def _grid(height: int, width: int, patch: int) -> tuple[int, int]:
    if patch < 1 or height % patch or width % patch or min(height, width) < 1:
        raise ConfigError(
            f"patch is {patch}; it must divide both sides of {height}x{width} images: "
            "choose a common divisor, or resize the images"
        )
    return height // patch, width // patch
