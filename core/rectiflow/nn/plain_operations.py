"""Operations by their plain formulas, in place of torch's fused ones whose forward-mode derivative is missing or wrong."""

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
    return F.dropout(plain_softmax(weights, -1), dropout_p) @ value


def plain_softmax(input: Tensor, dim: int) -> Tensor:
    """exp(x) / sum exp(x) along an axis, as `torch.softmax`, whose forward derivative cannot be differentiated backwards."""
    weights = (input - input.amax(dim, keepdim=True)).exp()
    return weights / weights.sum(dim, keepdim=True)


def plain_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) weight + bias over the last axes, as `torch.nn.functional.layer_norm`.

    Torch's own gives a wrong gradient of its forward derivative: it holds mean and variance fixed (torch 2.11).
    """
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    if weight is not None:
        normal = normal * weight
    return normal if bias is None else normal + bias


PLAIN: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: plain_attention,
    F.layer_norm: plain_layer_norm,
    torch.softmax: plain_softmax,
}


class PlainOperations(TorchFunctionMode):
    """Inside the `with` block torch's attention, layer norm and softmax are the plain ones."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or what stands for it."""
        operation: Callable[..., Any] = PLAIN.get(func, func)
        return operation(*args, **(kwargs or {}))
