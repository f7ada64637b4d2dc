"""Plain operations are torch's, and can be differentiated forwards, backwards and both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from rectiflow.nn.plain_operations import PlainOperations, plain_attention, plain_layer_norm

GENERATOR = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(2, 3, 5, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(3))
ALLOWED = torch.rand(2, 1, 5, 5, generator=GENERATOR) < 0.7
ALLOWED |= torch.eye(5, dtype=torch.bool)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": ALLOWED},
        {"attn_mask": torch.randn(5, 5, generator=GENERATOR).double()},
    ],
    ids=["plain", "causal", "scale", "mask", "bias"],
)
def test_it_is_torchs(options: dict[str, Any]) -> None:
    expected = F.scaled_dot_product_attention(Q, K, V, **options)
    torch.testing.assert_close(plain_attention(Q, K, V, **options), expected, atol=1e-12, rtol=1e-12)


def test_the_mode_replaces_torchs_and_nothing_else() -> None:
    def field(query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, K, V).sin()

    with PlainOperations():
        value, slope = torch.func.jvp(field, (Q,), (V,))
    difference = (field(Q + 1e-6 * V) - field(Q - 1e-6 * V)) / 2e-6
    torch.testing.assert_close(value, field(Q), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(slope, difference, atol=1e-8, rtol=1e-6)
    torch.manual_seed(0)
    dropped = plain_attention(Q, K, V, dropout_p=0.5)
    assert not torch.equal(dropped, plain_attention(Q, K, V))


@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm_is_torchs(affine: bool) -> None:
    weight, bias = (torch.randn(5, 4, generator=GENERATOR) for _ in range(2)) if affine else (None, None)
    expected = F.layer_norm(Q, (5, 4), weight, bias, 1e-3)
    torch.testing.assert_close(plain_layer_norm(Q, (5, 4), weight, bias, 1e-3), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["attention", "softmax", "layer_norm", "group_norm", "rms_norm", "gelu", "silu"])
def test_gradient_of_a_forward_derivative_is_that_of_a_difference(name: str) -> None:
    """Torch's own fail here: no rule for fused attention, an error in softmax, a wrong number from layer norm."""
    operation = {
        "attention": lambda x: F.scaled_dot_product_attention(x, x, V),
        "softmax": lambda x: torch.softmax(x, -1),
        "layer_norm": lambda x: F.layer_norm(x, (4,)),
        "group_norm": lambda x: F.group_norm(x, 3),
        "rms_norm": lambda x: F.rms_norm(x, [4], eps=1e-6),
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
    }[name]
    p = torch.tensor(0.7, requires_grad=True)

    def field(x: Tensor) -> Tensor:
        return operation(x * p + 0.1 * (x * p).square())  # type: ignore[no-untyped-call,no-any-return]

    with PlainOperations(), forward_ad.dual_level():
        slope = forward_ad.unpack_dual(field(forward_ad.make_dual(Q, K))).tangent
    difference = (field(Q + 1e-5 * K) - field(Q - 1e-5 * K)) / 2e-5
    torch.testing.assert_close(slope, difference, atol=1e-7, rtol=1e-6)
    (first,) = torch.autograd.grad(slope.pow(3).sum(), p)
    (second,) = torch.autograd.grad(difference.pow(3).sum(), p)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)
