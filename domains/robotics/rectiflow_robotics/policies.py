"""Policy networks: velocities of action chunks, given an observation."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import ConditionEmbedding
from rectiflow.nn.layers import embedding, linear
from rectiflow.nn.transformer import Attention, FeedForward
from rectiflow_robotics.normalisation import Normalisation


class PolicyNetwork(nn.Module):
    """A residual perceptron over a chunk (B, Ta, Da), the time and an observation (B, Do) or picture (B, 3, H, W).

    It normalises observations itself. With `until` it takes the end of a step too, for average velocities (few-step students);
    what that adds starts at zero. The last layer starts at zero.

    Args:
        observations: (T, …) of the demonstrations, which give the normalisation.
        actions: (Ta, Da), what a chunk is.
        width: of each layer.
        depth: residual layers.
        frequencies: of the time embedding, an even number.
        until: whether it takes the end of a step.
        patch, tokens: for pictures, the side of a patch in pixels and the width of its token; 0 for vectors.
        generator: draws the weights.

    Raises:
        ConfigError: pictures without a patch that divides them, vectors with one, or a number that is not allowed.
    """

    def __init__(
        self,
        *,
        observations: Tensor,
        actions: tuple[int, int],
        width: int,
        depth: int,
        frequencies: int,
        until: bool,
        patch: int = 0,
        tokens: int = 0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ConfigError(f"model.width={width}, model.depth={depth}; both must be at least 1")
        shape = tuple(observations.shape[1:])
        if (len(shape) == 3) != (patch > 0):
            raise ConfigError(
                f"observations have shape {shape}; pictures (3, H, W) need model=vision, vectors model=perceptron"
            )
        self.normalisation = Normalisation(observations)
        self.encoder = PatchEncoder(shape, patch, tokens, generator=generator) if patch else None
        seen = shape[0] if self.encoder is None else self.encoder.size
        size = actions[0] * actions[1]
        self.observe = linear(seen, width, generator=generator)
        self.enter = linear(size, width, generator=generator)
        self.time = ConditionEmbedding(width, frequencies=frequencies, until=until, generator=generator)
        self.layers = nn.ModuleList([linear(width, width, generator=generator) for _ in range(depth)])
        self.leave = linear(width, size, generator=generator, zero=True)

    def forward(self, x: Tensor, t: Tensor, observation: Tensor, until: Tensor | None = None) -> Tensor:
        """Velocity, (B, Ta, Da) as x, at times t (B,)."""
        hidden = self.enter(x.flatten(1)) + self.moment(t, until) + self.features(observation)
        for layer in self.layers:
            hidden = hidden + layer(F.mish(hidden))
        velocity: Tensor = self.leave(F.mish(hidden)).view(x.shape)
        return velocity

    def moment(self, t: Tensor, until: Tensor | None) -> Tensor:
        """What the network makes of times (B,): (B, width), or (1, width) where they are one expanded number."""
        if t.stride(0) == 0 and (until is None or until.stride(0) == 0):
            t, until = t[:1], None if until is None else until[:1]
        vector: Tensor = self.time(t, until=until)
        return vector

    def features(self, observation: Tensor) -> Tensor:
        """What the network makes of observations, (B, width)."""
        seen = self.normalisation(observation)
        features: Tensor = self.observe(seen if self.encoder is None else self.encoder(seen))
        return features


class PatchEncoder(nn.Module):
    """One transformer layer over the patches of a picture (B, 3, H, W) in [-1, 1]; (B, `size`), every token of it.

    Raises:
        ConfigError: a patch that does not divide the picture.
    """

    def __init__(self, shape: tuple[int, ...], patch: int, tokens: int, *, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = shape
        if height % patch or width % patch:
            raise ConfigError(f"model.patch={patch} does not divide pictures of {height}x{width}; choose a divisor")
        self.patch = patch
        self.embed = linear(channels * patch * patch, tokens, generator=generator)
        count = height // patch * (width // patch)
        self.size = count * tokens
        self.places = embedding(count, tokens, generator=generator)
        self.attention = Attention(tokens, 4, generator=generator)
        self.mlp = FeedForward(tokens, ratio=2.0, generator=generator)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of pictures."""
        patches = rearrange(pictures, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)
        tokens = self.embed(patches) + self.places.weight
        tokens = tokens + self.attention(F.layer_norm(tokens, tokens.shape[-1:]))
        tokens = tokens + self.mlp(F.layer_norm(tokens, tokens.shape[-1:]))
        return F.layer_norm(tokens, tokens.shape[-1:]).flatten(1)
