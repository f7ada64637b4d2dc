"""Logs, exponentials, geodesics, transports and conversions of every curved or periodic space, by their definitions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Coefficients, Interpolant, Linear, Trigonometric
from rectiflow.spaces.riemannian import Riemannian
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.torus import Torus

SPACES: dict[str, tuple[Riemannian, tuple[int, ...]]] = {
    "circle": (Sphere(), (2,)),
    "sphere": (Sphere(), (3,)),
    "spheres": (Sphere(), (3, 6)),
    "angles": (Torus(), (4,)),
    "unit torus": (Torus(1.0), (2, 3)),
    "rotation": (SO3(), (4,)),
    "rotations": (SO3(), (5, 4)),
}
every_space = pytest.mark.parametrize("name", sorted(SPACES))


@dataclass(frozen=True)
class Quadratic(Interpolant):
    """A convex path that is not linear: a = t^2."""

    def coefficients(self, t: Tensor) -> Coefficients:
        return Coefficients(t * t, 1 - t * t, 2 * t, -2 * t)

    @property
    def convex(self) -> bool:
        return True


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(name: str, count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    space, shape = SPACES[name]
    return space.sample_prior((count, *shape), seeded(seed), dtype=dtype)


def tangents(name: str, x: Tensor, seed: int, length: float = 1.0) -> Tensor:
    """Tangents at x, each part at most `length` long."""
    space, _ = SPACES[name]
    width = 3 if isinstance(space, SO3) else x.shape[-1]
    v = space.tangent(x, torch.randn(*x.shape[:-1], width, generator=seeded(seed), dtype=x.dtype))
    return length * v / v.norm(dim=-1, keepdim=True).clamp(min=1.0)


@every_space
def test_exp_and_log_undo_one_another(name: str) -> None:
    space, _ = SPACES[name]
    x, y = points(name, 500, 1), points(name, 500, 2)
    assert float(space.distance(space.exp(x, space.log(x, y)), y).max()) < 1e-10
    v = tangents(name, x, 3, length=0.49)
    torch.testing.assert_close(space.log(x, space.exp(x, v)), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.step(x, v, -0.7), space.exp(x, -0.7 * v))
    assert torch.equal(space.exp(x, torch.zeros_like(v)), space.exp(x, 0 * v))
    assert float(space.distance(space.exp(x, 0 * v), x).max()) < 1e-15


@every_space
def test_distance_is_the_length_of_the_log_and_a_metric(name: str) -> None:
    space, _ = SPACES[name]
    x, y, z = (points(name, 500, seed) for seed in (1, 2, 3))
    torch.testing.assert_close(space.distance(x, y), space.log(x, y).flatten(1).norm(dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(space.distance(x, y), space.distance(y, x), rtol=0, atol=1e-13)
    assert bool((space.distance(x, z) <= space.distance(x, y) + space.distance(y, z) + 1e-12).all())


@every_space
def test_no_point_is_away_from_itself_and_gradients_there_are_finite(name: str) -> None:
    space, _ = SPACES[name]
    x = points(name, 10_000, 1, torch.float32)
    assert torch.equal(space.distance(x, x), torch.zeros(10_000, dtype=torch.float32))
    assert float(space.log(x, x).abs().max()) < 3e-7
    for measure in (lambda a: space.distance(a, x), lambda a: space.log(a, x), lambda a: space.log(x, a)):
        a = x.clone().requires_grad_(True)
        measure(a).sum().backward()
        assert a.grad is not None
        assert bool(torch.isfinite(a.grad).all())
    v = torch.zeros_like(space.log(x, x)).requires_grad_(True)
    space.exp(x, v).square().sum().backward()
    assert v.grad is not None
    assert bool(torch.isfinite(v.grad).all())


@every_space
def test_derivatives_are_right_at_zero_and_away_from_it(name: str) -> None:
    space, _ = SPACES[name]
    x, y = points(name, 3, 1), points(name, 3, 2)
    for length in (0.0, 1e-3, 0.4):
        v = tangents(name, x, 3, length).requires_grad_(True)
        assert torch.autograd.gradcheck(lambda u: space.exp(x, u), (v,), atol=1e-6)
    near = space.exp(x, tangents(name, x, 4, 1e-3)).detach()
    for start in (near, y):
        start = start.clone().requires_grad_(True)
        assert torch.autograd.gradcheck(lambda z: space.log(x, space.project(z)), (start,), atol=1e-6)


@every_space
@pytest.mark.parametrize("interpolant", [Linear(), Quadratic()])
def test_paths_join_their_ends_at_the_stated_velocity(name: str, interpolant: Interpolant) -> None:
    space, _ = SPACES[name]
    x0, x1 = points(name, 200, 1), points(name, 200, 2)
    zero, one = torch.zeros(200), torch.ones(200)
    assert float(space.distance(space.path(x0, x1, zero, interpolant)[0], x0).max()) < 1e-14
    assert float(space.distance(space.path(x0, x1, one, interpolant)[0], x1).max()) < 1e-13
    t = torch.linspace(0.01, 0.99, 200)
    xt, v = space.path(x0, x1, t, interpolant)
    e = 1e-6
    before, after = (space.path(x0, x1, t + sign * e, interpolant)[0] for sign in (-1, 1))
    numeric = (space.log(xt, after) - space.log(xt, before)) / (2 * e)
    torch.testing.assert_close(v, numeric, rtol=0, atol=2e-8)
    speed = v.flatten(1).norm(dim=1) / interpolant.coefficients(t).da
    torch.testing.assert_close(speed, space.distance(x0, x1), rtol=0, atol=1e-12)
    travelled = interpolant.coefficients(t).a * space.distance(x0, x1)
    torch.testing.assert_close(space.distance(x0, xt), travelled, rtol=0, atol=1e-12)
    assert float(space.distance(space.interpolate(x0, x1, t), space.interpolate(x1, x0, 1 - t)).max()) < 1e-12


@every_space
@pytest.mark.parametrize("interpolant", [Linear(), Quadratic()])
def test_velocity_and_data_say_the_same(name: str, interpolant: Interpolant) -> None:
    space, _ = SPACES[name]
    x0, x1 = points(name, 200, 1), points(name, 200, 2)
    t = torch.linspace(0.02, 0.98, 200)
    xt, v = space.path(x0, x1, t, interpolant)
    data = space.convert(v, "velocity", "data", xt, t, interpolant)
    assert float(space.distance(data, x1).max()) < 1e-10
    torch.testing.assert_close(space.convert(x1, "data", "velocity", xt, t, interpolant), v, rtol=0, atol=1e-9)
    assert torch.equal(space.convert(x1, "data", "data", xt, t, interpolant), x1)
    torch.testing.assert_close(space.convert(v, "velocity", "velocity", xt, t, interpolant), v)
    end = space.convert(x1, "data", "velocity", x1, torch.ones(200), interpolant)
    assert float(end.abs().max()) < 1e-9


@every_space
def test_what_a_space_does_not_define_is_refused(name: str) -> None:
    space, _ = SPACES[name]
    x, t = points(name, 2, 1), torch.full((2,), 0.5)
    with pytest.raises(ConversionError, match=r"Trigonometric\(\).*a \+ s != 1.*Linear"):
        space.path(x, x, t, Trigonometric())
    with pytest.raises(ConversionError, match="Trigonometric"):
        space.convert(x, "data", "velocity", x, t, Trigonometric())
    for kind in ("noise", "score"):
        with pytest.raises(ConversionError, match=f"{kind} is not defined on.*allowed: velocity, data"):
            space.convert(x, kind, "velocity", x, t, Linear())  # type: ignore[arg-type]
        with pytest.raises(ConversionError, match=f"{kind} is not defined"):
            Flow(lambda x, t: x, space=space, predicts=kind).loss(x, generator=seeded())  # type: ignore[arg-type]
    assert not space.linear


@every_space
def test_pull_is_the_inverse_of_the_derivative_of_exp(name: str) -> None:
    """Moving by e u' in normal coordinates moves the end point by e w."""
    space, _ = SPACES[name]
    x = points(name, 100, 1)
    v, h, e = tangents(name, x, 2), 0.43, 1e-6
    y = space.step(x, v, h)
    w = tangents(name, y, 3)
    pulled = space.pull(x, v, h, w)
    ends = [space.exp(x, h * v + sign * e * pulled) for sign in (-1, 1)]
    numeric = (space.log(y, ends[1]) - space.log(y, ends[0])) / (2 * e)
    torch.testing.assert_close(numeric, w, rtol=0, atol=1e-8)
    # At x itself it does nothing, and along the geodesic nothing but transport.
    torch.testing.assert_close(space.pull(x, 0 * v, h, v), v, rtol=0, atol=1e-14)
    torch.testing.assert_close(space.pull(x, v, h, space.transport(x, y, v)), v, rtol=0, atol=1e-12)


@every_space
def test_transport_keeps_angles_and_geodesics(name: str) -> None:
    space, _ = SPACES[name]
    x, y = points(name, 200, 1), points(name, 200, 2)
    v, w = tangents(name, x, 3), tangents(name, x, 4)
    there = [space.transport(x, y, u) for u in (v, w)]
    torch.testing.assert_close((there[0] * there[1]).sum(-1), (v * w).sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(space.transport(y, x, there[0]), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.transport(x, y, space.log(x, y)), -space.log(y, x), rtol=0, atol=1e-11)
    torch.testing.assert_close(there[0], space.tangent(y, there[0]), rtol=0, atol=1e-12)


def test_transport_around_an_octant_turns_by_its_area() -> None:
    space, corners = Sphere(), torch.eye(3)
    v = start = torch.tensor([[0.0, 1.0, 0.0]])
    for a, b in ((0, 1), (1, 2), (2, 0)):
        v = space.transport(corners[a : a + 1], corners[b : b + 1], v)
    torch.testing.assert_close(v, torch.tensor([[0.0, 0.0, 1.0]]), rtol=0, atol=1e-14)
    assert float((v * start).sum()) == pytest.approx(math.cos(math.pi / 2), abs=1e-14)


def test_antipodal_points_are_joined_by_a_fixed_geodesic() -> None:
    space = Sphere()
    x = space.sample_prior((50, 4), seeded(1))
    v = space.log(x, -x)
    torch.testing.assert_close(v.norm(dim=1), torch.full((50,), math.pi))
    torch.testing.assert_close((v * x).sum(1), torch.zeros(50), rtol=0, atol=1e-12)
    assert torch.equal(v, space.log(x, -x))
    assert float(space.distance(space.exp(x, v), -x).max()) < 1e-12
    torch.testing.assert_close(space.transport(x, -x, v), -v, rtol=0, atol=1e-11)
    a = x.clone().requires_grad_(True)
    (space.log(a, -x).sum() + space.distance(a, -x).sum()).backward()
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())


def test_float32_is_good_to_a_millionth_of_a_radian_at_every_angle() -> None:
    space, n = Sphere(), 5000
    x = space.sample_prior((n, 3), seeded(1))
    angle = torch.linspace(1e-4, math.pi - 1e-3, n)
    direction = tangents("sphere", x, 2)
    y = torch.cos(angle)[:, None] * x + torch.sin(angle)[:, None] * direction / direction.norm(dim=1, keepdim=True)
    near = [space.distance(x.float(), y.float()).double(), space.log(x.float(), y.float()).norm(dim=1).double()]
    for measured in near:
        assert float((measured - angle).abs().max()) < 1e-6


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(0.1, 50.0))
@settings(max_examples=200, deadline=None)
def test_torus_wraps_every_number(x: float, y: float, period: float) -> None:
    space = Torus(period)
    a, b = (space.project(torch.tensor([[value]], dtype=torch.float64)) for value in (x, y))
    assert 0 <= float(a) < period
    assert math.remainder(float(a) - x, period) == pytest.approx(0, abs=1e-9)
    shortest = min(abs(float(b) - float(a) + k * period) for k in (-1, 0, 1))
    assert float(space.distance(a, b)) == pytest.approx(shortest, abs=1e-9)
    assert abs(float(space.log(a, b))) <= period / 2 + 1e-9


def test_torus_knows_its_period() -> None:
    for period in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"period.*positive and finite"):
            Torus(period)
    tiny = Torus(1.0).project(torch.tensor([-1e-12], dtype=torch.float32))
    assert float(tiny) == 0.0
    x = Torus(3.0).sample_prior((2, 5), seeded())
    torch.testing.assert_close(Torus(3.0).log_prior(x), torch.full((2,), -5 * math.log(3.0)))


def test_priors_are_uniform() -> None:
    n = 20_000
    for width in (2, 3, 6):
        x = Sphere().sample_prior((n, width), seeded(1))
        torch.testing.assert_close(x.norm(dim=1), torch.ones(n))
        for column in range(width):
            # One coordinate of a uniform unit vector: (1 + z) / 2 is Beta((d - 1) / 2, (d - 1) / 2).
            law = stats.beta((width - 1) / 2, (width - 1) / 2)
            assert stats.kstest((1 + x[:, column].numpy()) / 2, law.cdf).pvalue > 1e-4
    angles = Torus(5.0).sample_prior((n, 2), seeded(2)).numpy()
    assert stats.kstest(angles[:, 0], stats.uniform(0, 5).cdf).pvalue > 1e-4
    rotations = SO3().sample_prior((n, 4), seeded(3))
    angle = SO3().distance(rotations, torch.tensor([[1.0, 0, 0, 0]])).numpy()
    assert stats.kstest(angle, lambda w: (w - torch.sin(torch.as_tensor(w)).numpy()) / math.pi).pvalue > 1e-4
    for space, shape in ((Sphere(), (4,)), (Sphere(), (4, 1)), (SO3(), (4, 3))):
        with pytest.raises(ConfigError, match=r"\(B, \.\.\., "):
            space.sample_prior(shape, seeded())


@every_space
def test_all_pairs_are_as_far_as_each_pair_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space, _ = SPACES[name]
    x, y = points(name, 7, 1), points(name, 5, 2)
    expected = torch.stack([space.distance(row.expand_as(y), y).square() for row in x])
    torch.testing.assert_close(space.squared_distances(x, y), expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("rectiflow.spaces.riemannian.ENTRIES", 2 * y.numel())  # two rows a block, and one left over
    torch.testing.assert_close(space.squared_distances(x, y), expected, rtol=1e-12, atol=1e-12)


@every_space
def test_projection_finds_the_space_and_is_done_after_once(name: str) -> None:
    space, _ = SPACES[name]
    x = points(name, 50, 1)
    assert float(space.distance(space.project(x), x).max()) < 1e-15
    raw = x + 3 * space.period if isinstance(space, Torus) else 2.5 * x
    assert float(space.distance(space.project(raw), x).max()) < 1e-12
    assert not bool(torch.isnan(space.project(torch.zeros_like(x))).any())


def test_networks_may_put_out_normal_components_on_the_sphere() -> None:
    space = Sphere()
    x, x1 = (space.sample_prior((20, 3), seeded(seed)) for seed in (1, 2))
    v = tangents("sphere", x, 3)
    raw = v + 5 * x
    torch.testing.assert_close(space.step(x, raw, 0.3), space.step(x, v, 0.3))
    torch.testing.assert_close(space.residual(raw, v, "velocity", x), torch.zeros_like(v), rtol=0, atol=1e-14)
    flow = Flow(lambda x, t: raw, space=space)
    torch.testing.assert_close(flow.velocity(x, torch.zeros(20)), v)
    torch.testing.assert_close(space.pull(x, raw, 0.3, x1), space.pull(x, v, 0.3, x1))
