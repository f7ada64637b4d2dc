"""Plain attention is torch's, and can be differentiated forwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rectiflow.nn.plain_attention import PlainAttention, plain_attention

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

    with PlainAttention():
        value, slope = torch.func.jvp(field, (Q,), (V,))
    difference = (field(Q + 1e-6 * V) - field(Q - 1e-6 * V)) / 2e-6
    torch.testing.assert_close(value, field(Q), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(slope, difference, atol=1e-8, rtol=1e-6)
    torch.manual_seed(0)
    dropped = plain_attention(Q, K, V, dropout_p=0.5)
    assert not torch.equal(dropped, plain_attention(Q, K, V))
