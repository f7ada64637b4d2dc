"""The convolutional velocity network: a U-Net in the manner of ADM and DDPM++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import TIME_SCALE, ConditionEmbedding
from rectiflow.nn.layers import convolution, linear

Resample = Literal["none", "down", "up"]


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions around a residual connection, scaled and shifted by the condition.

    Maps x (B, inputs, H, W) and condition (B, condition) to (B, outputs, H', W'), where `resample` halves or doubles
    the sides. The last convolution starts at zero, so that the block starts as its (resampled) shortcut.
    Source: arXiv 2105.05233, section 3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition: int,
        *,
        resample: Resample = "none",
        dropout: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm_in = _group_norm(inputs)
        self.conv_in = convolution(inputs, outputs, 3, generator=generator)
        self.modulation = linear(condition, 2 * outputs, generator=generator)
        self.norm_out = _group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = convolution(outputs, outputs, 3, generator=generator, zero=True)
        self.shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1, generator=generator)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the block's output; `condition` has passed through SiLU already."""
        hidden = F.silu(self.norm_in(x))
        if self.resample == "down":
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        hidden = self.conv_in(hidden)
        shortcut: Tensor = self.shortcut(x)
        if self.resample == "up":
            hidden, shortcut = _enlarge(hidden), _enlarge(shortcut)
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.norm_out(hidden), 1 + scale)
        result: Tensor = shortcut + self.conv_out(self.dropout(F.silu(hidden)))
        return result


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of a map (B, channels, H, W), with a residual connection that starts as identity.

    Raises ConfigError when `head_width` does not divide `channels`.
    """

    def __init__(self, channels: int, *, head_width: int, generator: torch.Generator) -> None:
        super().__init__()
        if channels % head_width:
            raise ConfigError(f"head_width is {head_width}; it must divide the {channels} channels of an attention map")
        self.heads = channels // head_width
        self.norm = _group_norm(channels)
        self.qkv = linear(channels, 3 * channels, generator=generator)
        self.output = linear(channels, channels, generator=generator, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what each pixel gathered from the others."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = x + self.output(gathered).transpose(1, 2).unflatten(2, x.shape[2:])
        return result


class Stage(nn.Module):
    """A residual block, followed by attention where the resolution has it."""

    def __init__(self, block: ResidualBlock, attention: AttentionBlock | None = None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the stage's output for x (B, C, H, W) and condition (B, D)."""
        x = self.block(x, condition)
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """A U-Net v(x, t, label) for images of one size; its output is zero before training.

    `size` is the side in pixels, or (height, width). Level i has width * multipliers[i] channels and 1/2^i of the
    resolution, and `blocks` residual blocks on the way down, each handing its output to one on the way up. (ADM has one
    more on the way up: left out, training on digits is a quarter faster a step for 0.4 % more loss.) `attention` lists
    the resolutions (the smaller side) that attend, of which the coarsest includes the middle; None lets the middle
    alone attend. `patch` folds each patch x patch square of pixels into channels before the first level, which
    leaves 1/patch^2 of the positions to compute. With `until` it gives average velocities, v(x, t, label, until). With
    `guidance` it takes the scale of classifier-free guidance as one more input. With `refiner` > 0 a second U-Net of that
    width stands beside it, without attention, which corrects a velocity, v(x, t, label, velocity=v). With `classes` > 0 the
    label is an integer in 0..classes, where `classes` itself is the null label of that guidance. `time_scale` is as in
    `ConditionEmbedding`.

    Raises ConfigError for a size that the levels do not halve evenly, a resolution in `attention` that no level has,
    widths or counts that are not positive, and a dropout outside [0, 1); a call raises it for an image or label that
    does not fit.
    Source: arXiv 2105.05233 (ADM), arXiv 2011.13456 (DDPM++).
    """

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int],
        classes: int = 0,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] | None = None,
        head_width: int = 32,
        dropout: float = 0.0,
        patch: int = 1,
        until: bool = False,
        guidance: bool = False,
        refiner: int = 0,
        time_scale: float = TIME_SCALE,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.patch = patch
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        _check_positive(channels=channels, width=width, blocks=blocks, head_width=head_width, patch=patch)
        if any(side % patch for side in self.size):
            raise ConfigError(
                f"patch is {patch}; it must divide both sides of the images, {self.size[0]} and {self.size[1]}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is {dropout}; it must be at least 0 and below 1: 0 turns it off")
        attending = _attending_levels(tuple(side // patch for side in self.size), multipliers, attention)
        widths = [width * multiplier for multiplier in multipliers]
        levels = range(len(widths))

        def stage(inputs: int, level: int, resample: Resample = "none", attends: bool = False) -> Stage:
            outputs = widths[level]
            block = ResidualBlock(inputs, outputs, 4 * width, resample=resample, dropout=dropout, generator=generator)
            if not attends:
                return Stage(block)
            return Stage(block, AttentionBlock(outputs, head_width=head_width, generator=generator))

        self.condition = ConditionEmbedding(
            4 * width, classes, until=until, guidance=guidance, time_scale=time_scale, generator=generator
        )
        self.input = convolution(channels * patch**2, widths[0], 3, generator=generator)
        self.encoder = nn.ModuleList()
        for level in levels:
            if level:
                self.encoder.append(stage(widths[level - 1], level, "down"))
            self.encoder.extend(stage(widths[level], level, attends=level in attending) for _ in range(blocks))
        in_middle = attention is None or levels[-1] in attending
        self.middle = nn.ModuleList(stage(widths[-1], levels[-1], attends=attends) for attends in (in_middle, False))
        self.decoder = nn.ModuleList()
        for level in reversed(levels):
            self.decoder.extend(stage(2 * widths[level], level, attends=level in attending) for _ in range(blocks))
            if level:
                self.decoder.append(stage(widths[level], level - 1, "up"))
        # Which stages of the encoder leave a skip, and, the list being a palindrome, which of the decoder take one.
        self.joins = [True] * blocks + [False, *[True] * blocks] * (len(widths) - 1)
        self.norm = _group_norm(widths[0])
        self.output = convolution(widths[0], channels * patch**2, 3, generator=generator, zero=True)
        self.refiner: UNet | None = None
        if refiner:
            self.refiner = UNet(
                2 * channels, size, classes, refiner, multipliers, blocks, (), patch=patch, generator=generator
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
        if x.shape[1:] != (self.channels, *self.size):
            raise ConfigError(
                f"the images have shape {tuple(x.shape)}; this network was built for (batch, {self.channels}, "
                f"{self.size[0]}, {self.size[1]}): resize them, or build the network for their size"
            )
        condition = F.silu(self.condition(t, label, until, guidance))
        x = self.input(F.pixel_unshuffle(x, self.patch))
        skips: list[Tensor] = []
        for stage, joins in zip(self.encoder, self.joins, strict=True):
            x = stage(x, condition)
            if joins:
                skips.append(x)
        for stage in self.middle:
            x = stage(x, condition)
        for stage, joins in zip(self.decoder, self.joins, strict=True):
            if joins:
                x = torch.cat([x, skips.pop()], dim=1)
            x = stage(x, condition)
        return F.pixel_shuffle(self.output(F.silu(self.norm(x))), self.patch)

    def _correction(self, x: Tensor, t: Tensor, label: Tensor | None, velocity: Tensor) -> Tensor:
        if self.refiner is None:
            raise ConfigError("this network has no refiner; build it with one: model.refiner=8 is its width")
        correction: Tensor = self.refiner(torch.cat([x, velocity], dim=1), t, label)
        return correction[:, : self.channels]


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = min(32, max(1, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1: choose a positive {name}")


def _attending_levels(
    size: tuple[int, ...], multipliers: Sequence[int], attention: Sequence[int] | None
) -> frozenset[int]:
    """Return the levels that attend, after checking that the levels fit the size."""
    if not multipliers or min(multipliers) < 1:
        raise ConfigError(f"multipliers is {tuple(multipliers)}; it needs one positive integer a level, such as (1, 2)")
    factor = 2 ** (len(multipliers) - 1)
    if min(size) < 1 or any(side % factor for side in size):
        raise ConfigError(
            f"size is {size[0]}x{size[1]}; with {len(multipliers)} levels both sides must be multiples of {factor}: "
            "resize or pad the images, or give fewer multipliers"
        )
    sides = [min(size) // 2**level for level in range(len(multipliers))]
    attention = attention or ()
    for resolution in attention:
        if resolution not in sides:
            raise ConfigError(f"attention lists resolution {resolution}; the levels have {sides}: choose among these")
    return frozenset(sides.index(resolution) for resolution in attention)
