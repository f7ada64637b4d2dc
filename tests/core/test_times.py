"""Time laws against their distribution functions, shifts against their group law, grids against their ends."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from rectiflow.errors import ConfigError
from rectiflow.times import LogitNormal, Mode, TimeLaw, Uniform, UShaped, check_grid, shift_time, time_grid

COUNT = 100_000


def logit_normal_cdf(mean: float, std: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda t: stats.norm.cdf((np.log(t) - np.log1p(-t) - mean) / std)


def u_shaped_cdf(sharpness: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda t: 0.5 + np.sinh(sharpness * (t - 0.5)) / (2 * np.sinh(sharpness / 2))


def mode_cdf(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """The map u -> t falls, so P(T <= t) = 1 - u(t); u(t) by root finding on a fine grid."""

    def to_time(u: float) -> float:
        return 1 - u - scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u)

    grid = np.linspace(0, 1, 2001)
    roots = [0.0 if t >= 1 else 1.0 if t <= 0 else optimize.brentq(lambda u, t=t: to_time(u) - t, 0, 1) for t in grid]
    return lambda t: 1 - np.interp(t, grid, np.array(roots))


LAWS: list[tuple[TimeLaw, Callable[[np.ndarray], np.ndarray]]] = [
    (Uniform(), lambda t: t),
    (LogitNormal(), logit_normal_cdf(0, 1)),
    (LogitNormal(mean=-0.4, std=1.2), logit_normal_cdf(-0.4, 1.2)),
    (LogitNormal(mean=1.0, uniform=0.2), lambda t: 0.2 * t + 0.8 * logit_normal_cdf(1, 1)(t)),
    (UShaped(), u_shaped_cdf(4)),
    (UShaped(sharpness=1.5), u_shaped_cdf(1.5)),
    (Mode(), mode_cdf(1.29)),
    (Mode(scale=-0.8), mode_cdf(-0.8)),
]


@pytest.mark.parametrize(("law", "cdf"), LAWS, ids=[repr(law) for law, _ in LAWS])
def test_a_law_has_its_distribution_function(law: TimeLaw, cdf: Callable[[np.ndarray], np.ndarray]) -> None:
    t = law.sample(COUNT, torch.Generator().manual_seed(1))
    assert t.shape == (COUNT,)
    assert float(t.min()) >= 0
    assert float(t.max()) <= 1
    assert stats.kstest(t.numpy(), cdf).pvalue > 0.01


def test_the_u_shaped_variance() -> None:
    """1/4 - coth(A/2)/A + 2/A^2 = 0.115671 at A = 4; four standard errors of a sample variance."""
    t = UShaped().sample(COUNT, torch.Generator().manual_seed(2))
    squares = (t - 0.5).square()
    standard_error = float(squares.std()) / math.sqrt(COUNT)
    assert abs(float(squares.mean()) - 0.115671) < 4 * standard_error


def test_which_side_each_law_prefers() -> None:
    def near_middle(law: TimeLaw) -> float:
        return float(((law.sample(COUNT, torch.Generator().manual_seed(3)) - 0.5).abs() < 0.1).double().mean())

    assert near_middle(Mode(1.29)) > 0.25 > near_middle(Uniform()) > 0.15 > near_middle(Mode(-0.8))
    assert near_middle(UShaped()) < 0.15
    towards_data = LogitNormal(mean=1.0).sample(COUNT, torch.Generator().manual_seed(3))
    assert float(towards_data.median()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)


@pytest.mark.parametrize(
    "law", [Uniform(), LogitNormal(uniform=0.3), UShaped(9.0), Mode(2 / (math.pi - 2)), Mode(-1.0)]
)
def test_float32_draws_stay_inside_and_follow_the_generator(law: TimeLaw) -> None:
    torch.set_default_dtype(torch.float32)
    first, again = (law.sample(COUNT, torch.Generator().manual_seed(5)) for _ in range(2))
    other = law.sample(COUNT, torch.Generator().manual_seed(6))
    assert first.dtype is torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= float(first.min()) < float(first.max()) <= 1


@pytest.mark.parametrize(
    ("build", "seen"),
    [
        (lambda: LogitNormal(std=0.0), "0.0"),
        (lambda: LogitNormal(std=-2.0), "-2.0"),
        (lambda: LogitNormal(uniform=1.5), "1.5"),
        (lambda: LogitNormal(uniform=-0.5), "-0.5"),
        (lambda: UShaped(0.0), "0.0"),
        (lambda: UShaped(-3.0), "-3.0"),
        (lambda: Mode(2.0), "2.0"),
        (lambda: Mode(-1.5), "-1.5"),
        (lambda: shift_time(torch.tensor(0.5), 0.0), "0.0"),
        (lambda: shift_time(torch.tensor(0.5), -1.5), "-1.5"),
        (lambda: time_grid(0), "steps is 0"),
        (lambda: time_grid(-4), "-4"),
        (lambda: time_grid(4, shift=-2.0), "-2.0"),
        (lambda: check_grid(torch.tensor([0.5])), r"\(1,\)"),
        (lambda: check_grid(torch.zeros(2, 2)), r"\(2, 2\)"),
        (lambda: check_grid(torch.tensor([0.0, 1.25])), "1.25"),
        (lambda: check_grid(torch.tensor([-0.25, 1.0])), "-0.25"),
        (lambda: check_grid(torch.tensor([0.0, math.nan])), "nan"),
        (lambda: check_grid(torch.tensor([0.0, 0.5, 0.5, 1.0])), "0.5 to 0.5"),
        (lambda: check_grid(torch.tensor([0.0, 0.75, 0.25, 1.0])), "0.75 to 0.25"),
        (lambda: check_grid(torch.tensor([1.0, 0.25, 0.75, 0.0])), "0.25 to 0.75"),
        (lambda: check_grid(torch.tensor([0.5, 0.5])), "0.5 to 0.5"),
    ],
)
def test_bad_values_are_named(build: Callable[[], object], seen: str) -> None:
    with pytest.raises(ConfigError, match=rf"{seen}.*(allowed|: )"):
        build()


def test_shift_three_moves_the_middle_to_noise_time_three_quarters() -> None:
    """tau = 1/2 goes to 3/2 / 2 = 3/4, that is t = 1/4: a larger shift spends more steps near noise."""
    assert float(shift_time(torch.tensor(0.5), 3.0)) == pytest.approx(0.25)
    assert float(shift_time(torch.tensor(0.8), 3.0)) == pytest.approx(1 - 0.6 / 1.4)


def test_the_exponential_form_of_the_shift() -> None:
    tau, mu = torch.linspace(0.05, 0.95, 19), 1.15
    exponential = math.exp(mu) / (math.exp(mu) + 1 / tau - 1)
    torch.testing.assert_close(1 - shift_time(1 - tau, math.exp(mu)), exponential)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(a=st.floats(0.1, 10), b=st.floats(0.1, 10))
def test_shifts_form_a_group_and_keep_order(a: float, b: float) -> None:
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    torch.testing.assert_close(shift_time(shift_time(t, a), b), shift_time(t, a * b), atol=1e-12, rtol=0)
    torch.testing.assert_close(shift_time(shift_time(t, a), 1 / a), t, atol=1e-12, rtol=0)
    assert torch.equal(shift_time(t, 1.0), t)
    assert bool((shift_time(t, a).diff() > 0).all())


@settings(derandomize=True, max_examples=25, deadline=None)
@given(steps=st.integers(1, 60), shift=st.floats(0.02, 50))
def test_every_grid_is_one_that_solvers_take(steps: int, shift: float) -> None:
    grid = time_grid(steps, shift)
    assert grid.dtype is torch.float64
    assert grid.shape == (steps + 1,)
    assert (float(grid[0]), float(grid[-1])) == (0.0, 1.0)
    assert check_grid(grid) == grid.tolist()
    assert check_grid(grid.flip(0)) == grid.flip(0).tolist()


def test_the_grid_is_uniform_without_a_shift() -> None:
    assert time_grid(4).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
