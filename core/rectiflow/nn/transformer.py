"""A transformer block whose normalisation is steered by a condition (adaLN-zero)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.layers import linear
from rectiflow.nn.rotary import rotate


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise tokens (B, N, D) over their channels, then return them times 1 + scale, plus shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def packing_mask(ids: Tensor) -> Tensor:
    """Return who may attend to whom, a boolean tensor (B, 1, N, N): tokens with the same id in the same row.

    `ids` (B, N) holds integers: 0 for padding, 1, 2, ... for the samples packed into the row. Padding attends to
    padding, so that no softmax is empty. Source: arXiv 2402.12376 (FiT).
    """
    return (ids[:, :, None] == ids[:, None, :])[:, None]


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm over the channels of a head, in the dtype of its input under automatic mixed precision."""

    def __init__(self, head_width: int) -> None:
        super().__init__(head_width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., head_width) at unit mean square, times the learned weights."""
        return F.rms_norm(x, list(self.normalized_shape), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, width).

    With `qk_norm` queries and keys pass through a root-mean-square norm before they are rotated (arXiv 2403.03206).
    Raises ConfigError when `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool = True, generator: torch.Generator) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"heads is {heads}; it must divide the width {width}: choose a divisor")
        self.heads = heads
        self.qkv = linear(width, 3 * width, generator=generator)
        self.query_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.output = linear(width, width, generator=generator)

    def forward(self, x: Tensor, *, rotary: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return what each token gathered; `rotary` is from `rotary_table`, `mask` (True: may attend) broadcasts."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        gathered = _attend(query, key, value, mask)
        result: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return result


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    if not (query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # The backward pass of the CPU's fused attention takes several times as long in bfloat16 as the plain formula's.
    logits = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf)
    return torch.softmax(logits, -1) @ value


class FeedForward(nn.Module):
    """A two-layer network on each token alone: GELU (tanh form), or SwiGLU (arXiv 2002.05202).

    The hidden width is ratio * width for "gelu" and two thirds of that, rounded up to `multiple`, for "swiglu",
    whose three matrices then hold about as many weights. Raises ConfigError for any other `kind`.
    """

    def __init__(
        self,
        width: int,
        *,
        kind: Literal["gelu", "swiglu"] = "gelu",
        ratio: float = 4.0,
        multiple: int = 8,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if kind not in ("gelu", "swiglu"):
            raise ConfigError(f"mlp is {kind!r}; it must be 'gelu' or 'swiglu': choose one of them")
        self.gated = kind == "swiglu"
        hidden = int(ratio * width)
        if self.gated:
            hidden = -(-int(2 * ratio * width / 3) // multiple) * multiple
        self.input = linear(width, 2 * hidden if self.gated else hidden, generator=generator)
        self.output = linear(hidden, width, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, N, width) transformed one by one."""
        hidden = self.input(x)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * hidden
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        result: Tensor = self.output(hidden)
        return result


class AdaptiveBlock(nn.Module):
    """Attention and a feed-forward network, each shifted, scaled and gated by the condition, gates starting at zero.

    Tokens are (B, N, width); the condition is (B, width), or (B, N, width) where samples are packed into one row.
    Before training the block is the identity. Source: arXiv 2212.09748 (DiT), section 3.2.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qk_norm: bool = True,
        mlp: Literal["gelu", "swiglu"] = "gelu",
        mlp_ratio: float = 4.0,
        mlp_multiple: int = 8,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, qk_norm=qk_norm, generator=generator)
        self.mlp = FeedForward(width, kind=mlp, ratio=mlp_ratio, multiple=mlp_multiple, generator=generator)
        self.modulation = linear(width, 6 * width, generator=generator, zero=True)

    def forward(
        self, x: Tensor, condition: Tensor, *, rotary: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the new tokens; `condition` has passed through SiLU already."""
        if condition.ndim == 2:
            condition = condition[:, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition).chunk(6, dim=-1)
        x = torch.addcmul(x, gate, self.attention(modulate(x, shift, scale), rotary=rotary, mask=mask))
        return torch.addcmul(x, mlp_gate, self.mlp(modulate(x, mlp_shift, mlp_scale)))


class AdaptiveOutput(nn.Module):
    """The last layer: normalise by the condition, then project to `outputs` channels; zero before training."""

    def __init__(self, width: int, outputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.modulation = linear(width, 2 * width, generator=generator, zero=True)
        self.output = linear(width, outputs, generator=generator, zero=True)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (B, N, outputs) from tokens (B, N, width) and a condition that has passed through SiLU already."""
        if condition.ndim == 2:
            condition = condition[:, None]
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        result: Tensor = self.output(modulate(x, shift, scale))
        return result
