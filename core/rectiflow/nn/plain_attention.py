"""Attention by its plain formula, in place of torch's fused kernels, which have no forward-mode derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T scale + mask) v, as `torch.nn.functional.scaled_dot_product_attention`.

    Every operation in it can be differentiated forwards, backwards and both, which holds of neither the fused kernels nor their
    reference.
    """
    weights = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        weights = weights + attn_mask
    # Not torch's softmax, whose forward derivative cannot be differentiated backwards (torch 2.11).
    weights = (weights - weights.amax(-1, keepdim=True)).exp()
    return F.dropout(weights / weights.sum(-1, keepdim=True), dropout_p) @ value


class PlainAttention(TorchFunctionMode):
    """Inside the `with` block every call of torch's attention is one of `plain_attention`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or what stands for it."""
        if func is F.scaled_dot_product_attention:
            func = plain_attention
        return func(*args, **(kwargs or {}))
