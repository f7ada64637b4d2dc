"""The encoder of T5 and FLAN-T5 in plain torch, on weights as they are published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class T5:
    """Pre-norm transformer encoder with relative positions of Raffel et al. 2019 (arXiv 1910.10683).

    weights: tensors by their published names; gated: the feed-forward of version 1.1 and FLAN (arXiv 2002.05202), GEGLU instead
    of ReLU; buckets and farthest: of the table of relative positions.
    """

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    epsilon: float
    gated: bool
    buckets: int
    farthest: int

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Last hidden states (N, D) of the word pieces ids (N,) of one text."""
        x = self.weights["shared.weight"][ids]
        bias = self._position_bias(len(ids))
        for number in range(self.layers):
            block = f"encoder.block.{number}.layer"
            x = x + self._attended(self._norm(x, f"{block}.0.layer_norm"), f"{block}.0.SelfAttention", bias)
            x = x + self._fed_forward(self._norm(x, f"{block}.1.layer_norm"), f"{block}.1.DenseReluDense")
        return self._norm(x, "encoder.final_layer_norm")

    def _attended(self, x: Tensor, name: str, bias: Tensor) -> Tensor:
        query, key, value = (
            F.linear(x, self.weights[f"{name}.{part}.weight"]).reshape(len(x), self.heads, -1).transpose(0, 1)
            for part in "qkv"
        )
        # T5 leaves the products unscaled.
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return F.linear(mixed.transpose(0, 1).flatten(1), self.weights[f"{name}.o.weight"])

    def _fed_forward(self, x: Tensor, name: str) -> Tensor:
        if self.gated:
            gate = F.gelu(F.linear(x, self.weights[f"{name}.wi_0.weight"]), approximate="tanh")
            wide = gate * F.linear(x, self.weights[f"{name}.wi_1.weight"])
        else:
            wide = F.relu(F.linear(x, self.weights[f"{name}.wi.weight"]))
        return F.linear(wide, self.weights[f"{name}.wo.weight"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.epsilon)

    def _position_bias(self, length: int) -> Tensor:
        """(heads, N, N) of learnt values by distance: exact when near, in logarithmic buckets when far, each way its own."""
        place = torch.arange(length)
        ahead = place[None, :] - place[:, None]
        half = self.buckets // 2
        exact = half // 2
        distance = ahead.abs()
        ratio = (distance.clamp_min(1).float() / exact).log() / math.log(self.farthest / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp_max(half - 1)
        bucket = torch.where(distance < exact, distance, far) + half * (ahead > 0)
        table = self.weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return table[bucket].permute(2, 0, 1)


def read_t5(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> T5:
    """The encoder that a published configuration describes; the decoder's weights are not looked at."""
    return T5(
        weights,
        int(config["num_layers"]),
        int(config["num_heads"]),
        float(config.get("layer_norm_epsilon", 1e-6)),
        str(config.get("feed_forward_proj", "relu")).startswith("gated"),
        int(config.get("relative_attention_num_buckets", 32)),
        int(config.get("relative_attention_max_distance", 128)),
    )
