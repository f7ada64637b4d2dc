"""Coefficients against hand values, autograd, and the identities of a path."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rectiflow.errors import ConfigError
from rectiflow.instantiation import instantiate
from rectiflow.interpolants import (
    END,
    Coefficients,
    Exponential,
    Interpolant,
    Linear,
    LinearVariancePreserving,
    Lipman,
    Polynomial,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)
from rectiflow.settings import CORE_GROUPS

PATHS = [
    Linear(),
    Trigonometric(),
    Polynomial(),
    Polynomial(3.5),
    VariancePreserving(),
    VariancePreserving(1.0, 1.0),
    SubVariancePreserving(),
    LinearVariancePreserving(),
    Lipman(),
    Lipman(0.1),
    Exponential(),
    Exponential(2.0),
]
STEEP = (VariancePreserving, LinearVariancePreserving)  # s' is infinite at t = 1


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_equal_autograd(path: Interpolant) -> None:
    t = torch.linspace(0, 0.999 if isinstance(path, STEEP) else 1, 41).requires_grad_()
    c = path.coefficients(t)
    for value, derivative in ((c.a, c.da), (c.s, c.ds)):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_the_path_starts_at_the_source_and_ends_at_data(path: Interpolant) -> None:
    c = path.coefficients(torch.tensor([0.0, 1.0]))
    a0, s0, a1, s1 = 0.0, 1.0, 1.0, 0.0
    if isinstance(path, Lipman):
        s1 = path.sigma_min
    if isinstance(path, Exponential):
        a1, s1 = 1 - math.exp(-path.rate), math.exp(-path.rate)
    if isinstance(path, (VariancePreserving, SubVariancePreserving)):  # the diffusions are stopped before pure noise
        kept = math.exp(-(path.beta_min + path.beta_max) / 2)
        a0, s0 = math.sqrt(kept), math.sqrt(1 - kept) if isinstance(path, VariancePreserving) else 1 - kept
    torch.testing.assert_close(c.a, torch.tensor([a0, a1]), atol=1e-15, rtol=0)
    torch.testing.assert_close(c.s, torch.tensor([s0, s1]), atol=1e-15, rtol=0)


def test_variance_preserving_values() -> None:
    """t = 1/2 by hand: T = 19.9/8 + 0.05, T' = -(19.9/2 + 0.1)."""
    kept, rate = math.exp(-19.9 / 8 - 0.05), 19.9 / 2 + 0.1
    c = VariancePreserving().coefficients(torch.tensor(0.5))
    root = math.sqrt(1 - kept)
    expected = torch.tensor([math.sqrt(kept), root, rate * math.sqrt(kept) / 2, -rate * kept / (2 * root)])
    torch.testing.assert_close(torch.stack(list(c)), expected, atol=1e-14, rtol=0)
    c = SubVariancePreserving().coefficients(torch.tensor(0.5))
    expected = torch.tensor([math.sqrt(kept), 1 - kept, rate * math.sqrt(kept) / 2, -rate * kept])
    torch.testing.assert_close(torch.stack(list(c)), expected, atol=1e-14, rtol=0)
    assert float(VariancePreserving().coefficients(torch.tensor(0.0)).a) == pytest.approx(math.exp(-5.025), rel=1e-12)


def test_the_simple_paths_by_hand() -> None:
    t = torch.tensor(0.6)
    for path, expected in (
        (Polynomial(3), [0.216, 0.784, 1.08, -1.08]),
        (LinearVariancePreserving(), [0.6, 0.8, 1.0, -0.75]),
        (Lipman(0.1), [0.6, 0.46, 1.0, -0.9]),
    ):
        torch.testing.assert_close(torch.stack(list(path.coefficients(t))), torch.tensor(expected), atol=1e-15, rtol=0)


def test_small_noise_levels_keep_their_digits() -> None:
    """At u = 1 - t = 1e-9, T is 1e-10 to ten digits and s is its root: 1 - exp(-T) by subtraction has six."""
    c = VariancePreserving().coefficients(torch.tensor(1.0) - 1e-9)
    u = 1 - (1 - 1e-9)  # what float64 makes of it
    integral = u * 0.1 + u * u * 9.95
    assert float(c.s) == pytest.approx(math.sqrt(integral - integral**2 / 2), rel=1e-14)
    assert float(SubVariancePreserving().coefficients(torch.tensor(1 - 1e-9)).s) == pytest.approx(integral, rel=1e-9)


@pytest.mark.parametrize("path", [VariancePreserving(), LinearVariancePreserving()])
def test_an_infinite_derivative_is_held_next_to_the_end(path: Interpolant) -> None:
    near, end = path.coefficients(torch.tensor([1 - END, 1.0])).ds
    assert float(near) == pytest.approx(float(end), rel=1e-9)
    assert -300 < float(end) < -10
    for dtype in (torch.bfloat16, torch.float32):
        assert bool(torch.isfinite(path.coefficients(torch.tensor([1.0], dtype=dtype)).ds).all())


@pytest.mark.parametrize("path", PATHS)
def test_the_ratio_tells_the_time(path: Interpolant) -> None:
    """By closed form and by the bisection that a path without one inherits."""
    t = torch.linspace(0, 1, 101)
    ratio = path.coefficients(t).ratio
    assert bool((ratio.diff() > 0).all())
    torch.testing.assert_close(path.time_of(ratio), t, atol=1e-12, rtol=0)
    torch.testing.assert_close(Interpolant.time_of(path, ratio), t, atol=1e-12, rtol=0)
    single = path.coefficients(t[:-1].float()).ratio
    assert path.time_of(single).dtype is torch.float32
    torch.testing.assert_close(path.time_of(single), t[:-1].float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_ratios_beyond_the_path_give_its_ends(path: Interpolant) -> None:
    ratio = torch.tensor([0.0, 1e-300, 1e300, math.inf])
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(path.time_of(ratio), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(Interpolant.time_of(path, ratio), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Polynomial(0.5), r"power is 0\.5.*1 \(the linear path\)"),
        (lambda: Polynomial(math.nan), "power is nan"),
        (lambda: VariancePreserving(0.0), r"VariancePreserving got beta_min 0\.0 and beta_max 20"),
        (lambda: SubVariancePreserving(3.0, 2.0), r"beta_min 3\.0 and beta_max 2\.0"),
        (lambda: Lipman(1.0), r"sigma_min is 1\.0.*below 1"),
        (lambda: Lipman(-0.1), r"sigma_min is -0\.1"),
    ],
)
def test_bad_parameters_are_named(build: Callable[[], Interpolant], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build()


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


def test_which_paths_are_convex() -> None:
    t = torch.linspace(0, 1, 11)
    for path in PATHS:
        c = path.coefficients(t)
        assert path.convex == bool(torch.allclose(c.a + c.s, torch.ones(11), atol=1e-12, rtol=0))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_kept(path: Interpolant, dtype: torch.dtype) -> None:
    assert {value.dtype for value in path.coefficients(torch.rand(3, dtype=dtype))} == {dtype}


@pytest.mark.parametrize("path", PATHS)
@settings(derandomize=True, max_examples=25, deadline=None)
@given(t=st.floats(0.01, 0.99))
def test_derivatives_equal_central_differences(path: Interpolant, t: float) -> None:
    h = 1e-6
    here = path.coefficients(torch.tensor(t, dtype=torch.float64))
    before, after = (path.coefficients(torch.tensor(t + d, dtype=torch.float64)) for d in (-h, h))
    assert abs(float((after.a - before.a) / (2 * h) - here.da)) < 1e-8
    assert abs(float((after.s - before.s) / (2 * h) - here.ds)) < 1e-6
    assert float(here.determinant) > 0


@pytest.mark.parametrize("name", sorted(CORE_GROUPS["interpolant"]))
def test_the_options_of_the_command_line_build_paths_with_the_defaults_of_the_library(name: str) -> None:
    path = instantiate(OmegaConf.structured(CORE_GROUPS["interpolant"][name]), [])
    assert isinstance(path, Interpolant)
    assert path == type(path)()
