"""Coefficients against hand values, autograd, and the identities of a path."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectiflow.interpolants import Coefficients, Interpolant, Linear, Trigonometric

PATHS = [Linear(), Trigonometric()]


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_equal_autograd(path: Interpolant) -> None:
    t = torch.linspace(0, 1, 41).requires_grad_()
    c = path.coefficients(t)
    for value, derivative in ((c.a, c.da), (c.s, c.ds)):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_the_path_starts_at_the_source_and_ends_at_data(path: Interpolant) -> None:
    c = path.coefficients(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(c.a, torch.tensor([0.0, 1.0]), atol=1e-15, rtol=0)
    torch.testing.assert_close(c.s, torch.tensor([1.0, 0.0]), atol=1e-15, rtol=0)


def test_linear_values() -> None:
    c = Linear().coefficients(torch.tensor(0.25))
    assert [float(value) for value in c] == [0.25, 0.75, 1.0, -1.0]
    assert float(c.determinant) == 1.0


def test_trigonometric_values_at_one_third() -> None:
    """sin 30 degrees is a half, cos 30 degrees is sqrt(3) / 2."""
    c = Trigonometric().coefficients(torch.tensor(1 / 3))
    root = math.sqrt(3) / 2
    expected = torch.tensor([0.5, root, math.pi / 2 * root, -math.pi / 4])
    torch.testing.assert_close(torch.stack(list(c)), expected, atol=1e-15, rtol=0)
    torch.testing.assert_close(c.determinant, torch.tensor(math.pi / 2), atol=1e-15, rtol=0)


def test_determinant_is_that_of_the_two_by_two_system() -> None:
    """(x_t, x_t') = [[a, s], [a', s']] (x1, x0); D is minus its determinant, positive because s' < 0 < a'."""
    c = Coefficients(*(torch.tensor(value) for value in (2.0, 3.0, 5.0, -7.0)))
    system = torch.tensor([[2.0, 3.0], [5.0, -7.0]])
    torch.testing.assert_close(c.determinant, -torch.linalg.det(system))


def test_expand_to_aligns_the_batch_axis() -> None:
    x = torch.zeros(4, 3, 2, 5)
    c = Linear().coefficients(torch.tensor([0.0, 0.1, 0.2, 0.3])).expand_to(x)
    assert all(value.shape == (4, 1, 1, 1) for value in c)
    assert float(c.a[3]) == 0.3
    scalar = Linear().coefficients(torch.tensor(0.5)).expand_to(x)
    assert all(value.shape == () for value in scalar)


def test_only_the_linear_path_is_convex() -> None:
    t = torch.linspace(0, 1, 11)
    for path in PATHS:
        c = path.coefficients(t)
        assert path.convex == bool(torch.allclose(c.a + c.s, torch.ones(11)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_kept(path: Interpolant, dtype: torch.dtype) -> None:
    assert {value.dtype for value in path.coefficients(torch.rand(3, dtype=dtype))} == {dtype}


@pytest.mark.parametrize("path", PATHS)
@settings(derandomize=True, max_examples=25, deadline=None)
@given(t=st.floats(0.01, 0.99))
def test_derivatives_equal_central_differences(path: Interpolant, t: float) -> None:
    h = 1e-5
    here = path.coefficients(torch.tensor(t, dtype=torch.float64))
    before, after = (path.coefficients(torch.tensor(t + d, dtype=torch.float64)) for d in (-h, h))
    assert abs(float((after.a - before.a) / (2 * h) - here.da)) < 1e-8
    assert abs(float((after.s - before.s) / (2 * h) - here.ds)) < 1e-8
    assert float(here.determinant) > 0
