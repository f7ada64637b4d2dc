"""The velocity network of shapes: a transformer over tokens that carry no order, or that have a place each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.batch import State
from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import TIME_SCALE, ConditionEmbedding
from rectiflow.nn.layers import embedding, linear
from rectiflow.nn.transformer import AdaptiveBlock, AdaptiveOutput, Attention, FeedForward
from rectiflow_shapes.conditions import FREE, VOCABULARY

TELLABLE = ("kind", "attributes", "caption")


def check_told(told: Sequence[str]) -> None:
    """Refuse conditions that no shape has.

    Raises:
        ConfigError: names the first.
    """
    for name in told:
        if name not in TELLABLE:
            raise ConfigError(f"model.told has {name!r}; allowed: {', '.join(TELLABLE)}")


class PlainBlock(nn.Module):
    """Attention and a feed-forward network behind layer norms, for networks whose time and conditions are tokens."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.attention = Attention(width, heads, qk_norm=qk_norm, generator=generator)
        self.mlp = FeedForward(width, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new tokens (B, N, width)."""
        x = x + self.attention(_normal(x))
        result: Tensor = x + self.mlp(_normal(x))
        return result


class ShapeTransformer(nn.Module):
    """A transformer v(x, t, kind, attributes, caption) over sets of tokens; its output is zero before training.

    The second half of the blocks sees the first half's tokens again (long skips, arXiv 2209.12152). Time, kind and attributes
    steer every block (`steering="adaptive"`, arXiv 2212.09748), or stand beside the set as tokens that are dropped at the end
    (`steering="token"`, arXiv 2502.06608); words of a caption are tokens in both. Without `places` the network is equivariant
    under permutations of the set.

    Args:
        columns: numbers a token has, or name -> numbers where the state is a dict of (B, N, ...).
        places: tokens a shape has when each has a place of its own, which is then embedded; 0 for sets.
        kinds: number of kinds; `kinds` itself is the null kind.
        attributes: numbers an attribute vector has.
        told: what it is conditioned on, of kind | attributes | caption.
        until: whether it gives average velocities, v(x, t, ..., until).
        time_scale: as in `ConditionEmbedding`; about 10 for students whose method takes derivatives in time.

    Raises:
        ConfigError: an unknown condition or steering, heads that do not divide the width, or a depth below 1.
    """

    def __init__(
        self,
        columns: int | Mapping[str, int],
        places: int = 0,
        kinds: int = 0,
        attributes: int = 0,
        told: Sequence[str] = ("kind",),
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        qk_norm: bool = True,
        skips: bool = True,
        steering: Literal["adaptive", "token"] = "adaptive",
        until: bool = False,
        time_scale: float = TIME_SCALE,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_told(told)
        if steering not in ("adaptive", "token"):
            raise ConfigError(f"steering is {steering!r}; it must be 'adaptive' or 'token': choose one of them")
        if depth < 1:
            raise ConfigError(f"depth is {depth}; it must be at least 1")
        self.columns = dict(columns) if isinstance(columns, Mapping) else {"": int(columns)}
        self.told = tuple(told)
        self.adaptive = steering == "adaptive"
        numbers = sum(self.columns.values())
        classes = kinds if "kind" in told else 0
        self.embed = linear(numbers, width, generator=generator)
        self.place = embedding(places, width, generator=generator) if places else None
        self.condition = ConditionEmbedding(width, classes, until=until, time_scale=time_scale, generator=generator)
        self.attribute: nn.Linear | None = None
        if "attributes" in told:
            self.attribute = linear(2 * attributes, width, generator=generator)
        self.words = embedding(VOCABULARY, width, generator=generator) if "caption" in told else None
        half = depth // 2 if skips else 0
        self.pushed, self.popped = range(half), range(depth - half, depth)
        self.joins = nn.ModuleList(linear(2 * width, width, generator=generator) for _ in range(half))
        self.blocks = nn.ModuleList(
            AdaptiveBlock(width, heads, qk_norm=qk_norm, generator=generator)
            if self.adaptive
            else PlainBlock(width, heads, qk_norm=qk_norm, generator=generator)
            for _ in range(depth)
        )
        self.output: nn.Module = (
            AdaptiveOutput(width, numbers, generator=generator)
            if self.adaptive
            else linear(width, numbers, generator=generator, zero=True)
        )

    def forward(
        self,
        x: State,
        t: Tensor,
        kind: Tensor | None = None,
        attributes: Tensor | None = None,
        caption: Tensor | None = None,
        until: Tensor | None = None,
    ) -> State:
        """Return the velocity, of x's form, at x (B, N, columns), times (B,) in [0, 1] and conditions.

        Kinds are integers (B,) in 0..kinds, attributes (B, A) in [0, 1] or `FREE` where nothing is asked, captions word
        numbers (B, W) from `conditions.words`. With `until` (B,), the average velocity from t to there.
        """
        vector = self.condition(t, kind if "kind" in self.told else None, until)
        if self.attribute is not None:
            vector = vector + self.attribute(_asked(_given(attributes, "attributes")))
        tokens = self.embed(_joined(x, self.columns))
        count = tokens.shape[1]
        if self.place is not None:
            tokens = tokens + self.place.weight
        beside = [] if self.adaptive else [vector[:, None]]
        if self.words is not None:
            beside.append(self.words(_given(caption, "caption")))
        tokens = torch.cat([tokens, *beside], 1)
        tokens = self._through_blocks(tokens, F.silu(vector))[:, :count]
        if self.adaptive:
            return _split(self.output(tokens, F.silu(vector)), x, self.columns)
        return _split(self.output(_normal(tokens)), x, self.columns)

    def _through_blocks(self, tokens: Tensor, steer: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            if number in self.popped:
                tokens = self.joins[number - self.popped.start](torch.cat([tokens, kept.pop()], -1))
            tokens = block(tokens, steer) if self.adaptive else block(tokens)
            if number in self.pushed:
                kept.append(tokens)
        return tokens


def _asked(values: Tensor) -> Tensor:
    """Attributes (B, A) as (B, 2 A): values in [-1, 1], zero where nothing is asked, and whether something is."""
    asked = (values != FREE).to(values.dtype)
    return torch.cat([asked * (2 * values - 1), asked], 1)


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ConfigError(f"{name} is missing; this network was built to be told it: pass its null value for none")
    return value


def _normal(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _joined(x: State, columns: Mapping[str, int]) -> Tensor:
    return torch.cat([x[name] for name in columns], -1) if isinstance(x, dict) else x


def _split(x: Tensor, like: State, columns: Mapping[str, int]) -> State:
    if not isinstance(like, dict):
        return x
    return dict(zip(columns, torch.split(x, list(columns.values()), -1), strict=True))
