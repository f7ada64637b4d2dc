"""One model on another path, against the closed forms of that path."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rectiflow.analytic import GaussianFlow, JointGaussianFlow, MixtureFlow
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConversionError
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
from rectiflow.path_conversion import convert_path
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate
from rectiflow.spaces.product import Product
from rectiflow.spaces.sphere import Sphere
from rectiflow.stochastic_interpolant import StochasticInterpolant

PATHS = [
    Linear(),
    Trigonometric(),
    Polynomial(3.0),
    VariancePreserving(),
    SubVariancePreserving(),
    LinearVariancePreserving(),
    Lipman(0.01),
]
NAMES: tuple[Prediction, ...] = ("velocity", "data", "noise", "score")
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], dtype=torch.float64)
SPREADS = torch.stack([torch.eye(2, dtype=torch.float64) * v for v in (0.2, 0.5, 0.1)])
COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 0.4]], dtype=torch.float64)


def mixture(path: Interpolant) -> MixtureFlow:
    return MixtureFlow([0.5, 0.3, 0.2], MEANS, SPREADS, path)


def states(path: Interpolant, count: int = 33, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """States of the path's own law, at times where every path here has a counterpart."""
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0.1, 0.95, count)
    c = path.coefficients(t)
    x = c.a[:, None] * mixture(path).sample(count, g) + c.s[:, None] * torch.randn(count, 2, generator=g)
    return x.to(dtype), t.to(dtype)


@pytest.mark.parametrize("old", PATHS)
@pytest.mark.parametrize("new", PATHS)
@pytest.mark.parametrize("predicts", NAMES)
def test_conversion_equals_the_closed_form_of_the_new_path(
    old: Interpolant, new: Interpolant, predicts: Prediction
) -> None:
    truth = mixture(new)
    x, r = states(new)
    ratio = new.coefficients(r).ratio
    inside = (old.coefficients(torch.tensor([0.002])).ratio < ratio) & (ratio < 90)  # where the old path has that ratio
    x, r = x[inside], r[inside]
    assert len(r) > 15
    converted = convert_path(Flow(getattr(mixture(old), predicts), old, predicts), new)
    assert converted.interpolant is new
    direct = converted.model(x, r)
    torch.testing.assert_close(direct, getattr(truth, predicts)(x, r), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(converted.velocity(x, r), truth.velocity(x, r), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("old", [Linear(), Trigonometric(), LinearVariancePreserving()])
@settings(derandomize=True, max_examples=20, deadline=None)
@given(r=st.floats(0.02, 0.98), new=st.sampled_from(PATHS), seed=st.integers(0, 100))
def test_gaussian_velocity_at_any_time(old: Interpolant, r: float, new: Interpolant, seed: int) -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    x = 2 * torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    times = torch.full((3,), r, dtype=torch.float64)
    converted = convert_path(GaussianFlow(mean, COVARIANCE, old).flow(), new)
    expected = GaussianFlow(mean, COVARIANCE, new).velocity(x, times)
    torch.testing.assert_close(converted.velocity(x, times), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("old", PATHS)
@pytest.mark.parametrize("new", PATHS)
def test_float32_and_the_ends(old: Interpolant, new: Interpolant) -> None:
    truth = mixture(new)
    x, r = states(new, dtype=torch.float32)
    ratio = new.coefficients(r).ratio
    inside = (old.coefficients(torch.tensor([0.01])).ratio < ratio) & (ratio < 20)
    x, r = x[inside], r[inside]

    def model(x: Tensor, t: Tensor) -> Tensor:
        return mixture(old).velocity(x.double(), t.double()).float()

    converted = convert_path(Flow(model, old), new)
    velocity = converted.velocity(x, r)
    assert velocity.dtype is torch.float32
    expected = truth.velocity(x.double(), r.double())
    assert float((velocity - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max())) * 3
    for predicts in NAMES:
        flow = convert_path(Flow(lambda x, t: torch.ones_like(x), old, predicts), new)
        at_the_ends = flow.velocity(torch.ones(2, 2), torch.tensor([0.0, 1.0]))
        assert bool(torch.isfinite(at_the_ends).all())


def test_both_paths_have_the_same_flow_map() -> None:
    """Sampled finely, the converted flow takes every source to the same data."""
    flow = GaussianFlow(MEANS[0], COVARIANCE).flow()
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    expected = GaussianFlow(MEANS[0], COVARIANCE).flow_map(x0, torch.zeros(64), torch.ones(64))
    even = torch.linspace(0, 1, 101)
    for new, times in ((Trigonometric(), even), (LinearVariancePreserving(), torch.sin(math.pi / 2 * even))):
        ends = integrate(convert_path(flow, new), x0, times=times.clamp(0, 1), method="rk4").x
        assert float((ends - expected).abs().max()) < (1e-6 if isinstance(new, Trigonometric) else 1e-3)


def test_there_and_back_is_the_same_flow() -> None:
    x, t = states(Linear())
    flow = mixture(Linear()).flow()
    for new in (Trigonometric(), Polynomial(2), LinearVariancePreserving()):
        back = convert_path(convert_path(flow, new), Linear())
        torch.testing.assert_close(back.velocity(x, t), flow.velocity(x, t), atol=1e-10, rtol=1e-10)


def test_pure_noise_is_asked_of_the_first_time_of_a_path_that_never_gets_there() -> None:
    asked: list[tuple[Tensor, Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        asked.append((x, t))
        return torch.zeros_like(x)

    x = torch.tensor([[1.0, -2.0]])
    convert_path(Flow(model, VariancePreserving()), Linear()).velocity(x, torch.zeros(1))
    torch.testing.assert_close(asked[0][0], x, atol=1e-12, rtol=0)
    assert float(asked[0][1]) == 0.0


def test_conditions_guidance_and_self_conditioning_go_through() -> None:
    seen: list[Any] = []

    def model(x: Tensor, t: Tensor, label: Tensor, self_condition: Tensor) -> Tensor:
        seen.append((label, self_condition))
        return torch.ones_like(x) * label[:, None]

    flow = Flow(model, predicts="data", null={"label": 0.0}, self_conditioning=True)
    converted = convert_path(flow, Trigonometric())
    assert converted.null == flow.null
    cond = {"label": torch.full((2,), 3.0)}
    x = integrate(converted, torch.zeros(2, 1), steps=4, cond=cond, guidance=Guidance(2.0)).x
    assert bool(torch.isfinite(x).all())
    assert len(seen) == 4
    torch.testing.assert_close(seen[-1][1][:2], torch.full((2, 1), 3.0), atol=1.1, rtol=1)


def test_the_network_inside_stays_a_module() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    network = Network()
    converted = convert_path(Flow(network), Trigonometric())
    assert isinstance(converted.model, nn.Module)
    assert list(converted.model.parameters()) == list(network.parameters())


def test_a_score_network_is_converted_with_its_flow() -> None:
    ends = (torch.zeros(2), torch.ones(2)), (torch.eye(2), COVARIANCE), 0.3 * torch.eye(2)
    x, r = states(Trigonometric())
    converted = convert_path(JointGaussianFlow(*ends).flow(), Trigonometric())
    truth = JointGaussianFlow(*ends, Trigonometric())
    torch.testing.assert_close(converted.velocity(x, r), truth.velocity(x, r), atol=1e-10, rtol=0)
    torch.testing.assert_close(converted.score(x, r), truth.score(x, r), atol=1e-10, rtol=0)


def test_on_a_curved_space_a_geodesic_changes_its_speed_only() -> None:
    """A great circle at unit angle per time: on t^2 it is at angle r^2 with speed 2 r."""

    def spin(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 2])], 1)

    flow = Flow(spin, space=Sphere())
    x, r = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.4])
    velocity = convert_path(flow, Polynomial(2)).velocity(x, r)
    torch.testing.assert_close(velocity, torch.tensor([[0.0, 0.8, 0.0]]), atol=1e-12, rtol=0)
    end = integrate(convert_path(flow, Polynomial(2)), x, steps=400, method="midpoint").x
    torch.testing.assert_close(end, torch.tensor([[math.cos(1), math.sin(1), 0.0]]), atol=1e-5, rtol=0)


def test_refusals() -> None:
    def zero(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    with pytest.raises(ConversionError, match=r"not linear.*Trigonometric"):
        convert_path(Flow(zero, space=Sphere()), Trigonometric())
    with pytest.raises(ConversionError, match="not linear"):
        convert_path(Flow(zero, Trigonometric(), space=Product(turn=Sphere())), Linear())
    for old, new in ((StochasticInterpolant(), Linear()), (Linear(), StochasticInterpolant())):
        with pytest.raises(ConversionError, match="one_sided"):
            convert_path(Flow(zero, old), new)
