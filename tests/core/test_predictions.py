"""Conversions between velocity, data, noise and score, from pairs whose x0, x1 and x_t' are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import (
    Interpolant,
    Linear,
    LinearVariancePreserving,
    Lipman,
    Polynomial,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)
from rectiflow.predictions import (
    MARGIN,
    PREDICTIONS,
    Prediction,
    check_prediction,
    from_velocity,
    to_velocity,
    velocity_weight,
)

PATHS = [
    Linear(),
    Trigonometric(),
    Polynomial(),
    Polynomial(3.0),
    VariancePreserving(),
    SubVariancePreserving(),
    LinearVariancePreserving(),
    Lipman(),
    Lipman(0.1),
]
NAMES: tuple[Prediction, ...] = ("velocity", "data", "noise", "score")


def pair(
    path: Interpolant, t: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor]]:
    """A state on the path and the four true quantities there, made from x0 and x1 with nothing but the definition."""
    g = torch.Generator().manual_seed(seed)
    x0 = torch.randn(len(t), 2, 3, generator=g, dtype=torch.float64)
    x1 = 2 + 3 * torch.randn(len(t), 2, 3, generator=g, dtype=torch.float64)
    a, s, da, ds = (value[:, None, None] for value in path.coefficients(t.double()))
    truth = {"velocity": da * x1 + ds * x0, "data": x1, "noise": x0, "score": -x0 / s}
    return (a * x1 + s * x0).to(dtype), {name: value.to(dtype) for name, value in truth.items()}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NAMES)
def test_every_quantity_comes_out_of_the_velocity(path: Interpolant, kind: Prediction) -> None:
    t = torch.linspace(0.02, 0.98, 49)
    x, truth = pair(path, t)
    torch.testing.assert_close(from_velocity(truth["velocity"], kind, x, t, path), truth[kind], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NAMES)
def test_every_quantity_gives_the_velocity(path: Interpolant, kind: Prediction) -> None:
    t = torch.linspace(0.02, 0.98, 49)
    x, truth = pair(path, t)
    torch.testing.assert_close(to_velocity(truth[kind], kind, x, t, path), truth["velocity"], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NAMES)
def test_round_trip_in_float32(path: Interpolant, kind: Prediction) -> None:
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float32)
    x, truth = pair(path, t, dtype=torch.float32)
    back = to_velocity(from_velocity(truth["velocity"], kind, x, t, path), kind, x, t, path)
    assert back.dtype is torch.float32
    scale = float(truth["velocity"].abs().max())
    assert float((back - truth["velocity"]).abs().max()) < 1e-4 * scale


@pytest.mark.parametrize("path", PATHS)
@settings(derandomize=True, max_examples=25, deadline=None)
@given(t=st.floats(0.02, 0.98), seed=st.integers(0, 1000), kind=st.sampled_from(NAMES))
def test_round_trip(path: Interpolant, t: float, seed: int, kind: Prediction) -> None:
    times = torch.full((3,), t, dtype=torch.float64)
    x, truth = pair(path, times, seed)
    back = to_velocity(from_velocity(truth["velocity"], kind, x, times, path), kind, x, times, path)
    torch.testing.assert_close(back, truth["velocity"], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_conversion_is_nan_or_infinite_at_the_ends(path: Interpolant, kind: Prediction, dtype: torch.dtype) -> None:
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    value = torch.ones_like(x)
    assert bool(torch.isfinite(to_velocity(value, kind, x, t, path)).all())
    assert bool(torch.isfinite(from_velocity(value, kind, x, t, path)).all())
    assert bool(torch.isfinite(velocity_weight(kind, t, path)).all())


@pytest.mark.parametrize("path", PATHS)
def test_conversions_are_exact_at_their_regular_end(path: Interpolant) -> None:
    """A data prediction is harmless at t = 0, where one-step samplers use it; a noise prediction at t = 1."""
    for kind, end in (("data", 0.0), ("noise", 1.0)):
        t = torch.tensor([end, end])
        x, truth = pair(path, t)
        torch.testing.assert_close(to_velocity(truth[kind], kind, x, t, path), truth["velocity"], atol=1e-12, rtol=0)


def test_near_the_singular_end_time_is_held_at_the_margin() -> None:
    x, prediction = torch.tensor([[0.3]]), torch.tensor([[1.7]])
    end, held = torch.tensor([1.0]), torch.tensor([1 - MARGIN])
    expected = (prediction - x) / MARGIN  # straight to the predicted data in the time that is left
    torch.testing.assert_close(to_velocity(prediction, "data", x, end, Linear()), expected)
    torch.testing.assert_close(to_velocity(prediction, "data", x, held, Linear()), expected)
    start = torch.tensor([0.0])
    torch.testing.assert_close(to_velocity(prediction, "noise", x, start, Linear()), (x - prediction) / MARGIN)
    torch.testing.assert_close(from_velocity(prediction, "score", x, end, Linear()), -(x - prediction) / MARGIN)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NAMES)
def test_weight_is_the_squared_gain_from_prediction_error_to_velocity_error(
    path: Interpolant, kind: Prediction
) -> None:
    t = torch.linspace(0, 1, 21)
    x, error = torch.zeros(21, 1), torch.full((21, 1), 0.5)
    gain = (to_velocity(x + error, kind, x, t, path) - to_velocity(x, kind, x, t, path)) / error
    torch.testing.assert_close(velocity_weight(kind, t, path), gain.square().squeeze(1), rtol=1e-9, atol=1e-12)


def test_weight_values() -> None:
    t = torch.tensor([0.25])
    assert float(velocity_weight("data", t, Linear())) == pytest.approx((1 / 0.75) ** 2)
    assert float(velocity_weight("noise", t, Linear())) == pytest.approx((1 / 0.25) ** 2)
    assert float(velocity_weight("score", t, Linear())) == pytest.approx((0.75 / 0.25) ** 2)
    assert float(velocity_weight("velocity", t, Linear())) == 1.0


def test_an_unknown_kind_is_named_with_the_allowed_ones() -> None:
    assert set(PREDICTIONS) == set(NAMES)
    for name in NAMES:
        check_prediction(name)
    with pytest.raises(ConfigError, match=r"'epsilon'.*velocity, data, noise, score"):
        check_prediction("epsilon")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NAMES)
def test_bfloat16_states_train_and_convert(path: Interpolant, kind: Prediction) -> None:
    """A smoke test: times stay float32, states and predictions bfloat16, and nothing overflows."""
    g = torch.Generator().manual_seed(0)
    flow = Flow(lambda x, t: x, path, kind)
    draw = flow.draw(torch.randn(64, 3, generator=g, dtype=torch.bfloat16), generator=g)
    assert draw.t.dtype is torch.float32
    for state in (draw.xt, draw.target, *(flow.interpret(draw.xt, name, draw.xt, draw.t) for name in NAMES)):
        assert isinstance(state, Tensor)
        assert state.dtype is torch.bfloat16
        assert bool(torch.isfinite(state).all())


def test_a_path_at_rest_is_asked_a_moment_later() -> None:
    """t^3 has zero speed at 0, where its velocity cannot tell data from noise: noise must be the state itself, not 0 / 0."""
    x = torch.tensor([[0.3, -2.0]])
    path = Polynomial(3.0)
    noise = from_velocity(torch.zeros_like(x), "noise", x, torch.zeros(1), path)
    torch.testing.assert_close(noise, x, atol=1e-12, rtol=0)
    assert bool(torch.isfinite(from_velocity(torch.ones_like(x), "data", x, torch.zeros(1), path)).all())
