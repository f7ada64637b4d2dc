"""Distances against their limits and against sums written out."""

from __future__ import annotations

import math

import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow.rectify.distances import PseudoHuber, Squared


def test_pseudo_huber_limits() -> None:
    d, scale = 12, 0.01
    c = scale * d
    direction = torch.nn.functional.normalize(torch.randn(1, d, generator=torch.Generator().manual_seed(0)), dim=1)
    for length in (1e-9, 1e-6, 1e-4):
        found = PseudoHuber(scale)((length * direction).reshape(1, 3, 2, 2))
        assert float(found) == pytest.approx(length**2 / (2 * c * d), rel=1e-5)
    for length in (1e3, 1e6):
        found = PseudoHuber(scale)((length * direction).reshape(1, 3, 2, 2))
        assert float(found) == pytest.approx((length - c) / d, rel=1e-6)
    exact = (math.sqrt(0.7**2 + c**2) - c) / d
    assert float(PseudoHuber(scale)(0.7 * direction)) == pytest.approx(exact, rel=1e-12)


def test_constant_scales_with_dimension() -> None:
    """Doubling every entry's copies doubles c, and the root of the sum grows by sqrt 2."""
    r = torch.tensor([[0.3, -0.4]])
    c = 0.00054 * 2
    assert float(PseudoHuber()(r)) == pytest.approx((math.sqrt(0.25 + c**2) - c) / 2, rel=1e-9)
    c = 0.00054 * 4
    assert float(PseudoHuber()(torch.cat([r, r], 1))) == pytest.approx((math.sqrt(0.5 + c**2) - c) / 4, rel=1e-9)


def test_gradient_does_not_grow_with_the_error() -> None:
    lengths = []
    for size in (1.0, 10.0, 1000.0):
        r = torch.full((1, 16), size, requires_grad=True)
        (slope,) = torch.autograd.grad(PseudoHuber()(r).sum(), r)
        lengths.append(float(slope.norm()))
    assert lengths[0] == pytest.approx(lengths[2], rel=1e-3)
    zero = torch.zeros(1, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(PseudoHuber()(zero).sum(), zero)
    assert torch.equal(slope, torch.zeros(1, 16))


def test_masks_and_products() -> None:
    difference = {"a": torch.tensor([[[1.0, 2.0], [9.0, torch.nan]]]), "b": torch.tensor([[3.0]])}
    mask = {"a": torch.tensor([[True, False]])}
    assert float(Squared()(difference, mask)) == pytest.approx((1 + 4) / 2 + 9)
    c = 0.1 * 3
    expected = (math.sqrt(1 + 4 + 9 + c**2) - c) / 3
    assert float(PseudoHuber(0.1)(difference, mask)) == pytest.approx(expected)
    empty = PseudoHuber()(torch.ones(1, 2, 2), torch.tensor([[False, False]]))
    assert float(empty) == 0


def test_refused() -> None:
    for scale in (0.0, -1.0, math.inf):
        with pytest.raises(ConfigError, match="above 0"):
            PseudoHuber(scale)
