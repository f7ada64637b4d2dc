"""Quaternions, SO(3) and IGSO(3) against scipy's rotations, closed forms and the heat kernel's own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.spaces import quaternions
from rectiflow.spaces.igso3 import IGSO3
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere

SPACE = SO3()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotations(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return SPACE.sample_prior((count, 4), seeded(seed), dtype=dtype)


def vectors(count: int, seed: int, longest: float = math.pi) -> Tensor:
    """Rotation vectors of lengths spread evenly over (0, longest)."""
    v = torch.randn(count, 3, generator=seeded(seed))
    lengths = longest * (torch.arange(count) + 0.5) / count
    return v / v.norm(dim=1, keepdim=True) * lengths[:, None]


def as_scipy(q: Tensor) -> Rotation:
    return Rotation.from_quat(q.double().numpy()[..., [1, 2, 3, 0]])


def from_scipy(rotation: Rotation) -> Tensor:
    return torch.from_numpy(rotation.as_quat()[..., [3, 0, 1, 2]].copy())


def test_products_exponentials_and_logs_are_scipys() -> None:
    q, p, v = rotations(500, 1), rotations(500, 2), vectors(500, 3)
    product = as_scipy(q) * as_scipy(p)
    assert float(SPACE.distance(quaternions.multiply(q, p), from_scipy(product)).max()) < 1e-14
    assert float(SPACE.distance(quaternions.exp(v), from_scipy(Rotation.from_rotvec(v.numpy()))).max()) < 1e-14
    np.testing.assert_allclose(quaternions.log(q).numpy(), as_scipy(q).as_rotvec(), atol=1e-14)
    np.testing.assert_allclose(quaternions.to_matrix(q).numpy(), as_scipy(q).as_matrix(), atol=1e-15)
    y = torch.randn(500, 3, generator=seeded(4))
    np.testing.assert_allclose(quaternions.rotate(q, y).numpy(), as_scipy(q).apply(y.numpy()), atol=1e-14)
    np.testing.assert_allclose(SPACE.distance(q, p).numpy(), (as_scipy(q).inv() * as_scipy(p)).magnitude(), atol=1e-13)
    np.testing.assert_allclose(SPACE.log(q, p).numpy(), (as_scipy(q).inv() * as_scipy(p)).as_rotvec(), atol=1e-13)


def test_matrices_become_quaternions_also_at_half_turns() -> None:
    halves = torch.cat((torch.eye(4), quaternions.exp(vectors(500, 1, math.pi)), rotations(500, 2)))
    found = quaternions.from_matrix(quaternions.to_matrix(halves))
    assert float(SPACE.distance(found, halves).max()) < 1e-13
    assert bool((found[:, 0] >= 0).all())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_interpolation_is_scipys_slerp() -> None:
    q, p, times = rotations(20, 1), rotations(20, 2), torch.linspace(0, 1, 7)
    for i in range(20):
        slerp = Slerp([0, 1], Rotation.concatenate([as_scipy(q[i]), as_scipy(p[i])]))
        ours = SPACE.interpolate(q[i].expand(7, 4), p[i].expand(7, 4), times)
        assert float(SPACE.distance(ours, from_scipy(slerp(times.numpy()))).max()) < 1e-13


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_precision_holds_up_to_half_a_turn(dtype: torch.dtype, bound: float) -> None:
    """Slerp and log in float32 against float64 truths, at angles up to pi - 1e-3."""
    n = 20_000
    q, v = rotations(n, 1), vectors(n, 2, math.pi - 1e-3)
    p, t = quaternions.multiply(q, quaternions.exp(v)), torch.rand(n, generator=seeded(3))
    logs = SPACE.log(q.to(dtype), p.to(dtype)).double()
    assert float((logs - v).norm(dim=1).max()) < 4 * bound  # the inputs' own rounding is half of it
    assert float((logs.norm(dim=1) - v.norm(dim=1)).abs().max()) < bound
    exact = quaternions.multiply(q, quaternions.exp(t[:, None] * v))
    mine = SPACE.interpolate(q.to(dtype), p.to(dtype), t.to(dtype)).double()
    assert float(SPACE.distance(quaternions.normalize(mine), exact).max()) < bound
    assert float((mine.norm(dim=1) - 1).abs().max()) < bound
    v0 = v.to(dtype)
    assert float((quaternions.log(quaternions.exp(v0)) - v0).norm(dim=1).max()) < bound


@given(st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3), st.floats(0, math.pi - 1e-6), st.floats(1e-3, 1e3))
@settings(max_examples=200, deadline=None)
def test_log_takes_any_sign_and_scale(axis: list[float], angle: float, scale: float) -> None:
    direction = torch.tensor(axis, dtype=torch.float64)
    length = float(direction.norm())
    v = angle * direction / length if length > 1e-6 else torch.zeros(3, dtype=torch.float64)
    q = quaternions.exp(v)
    for factor in (1, -1, scale, -scale):
        torch.testing.assert_close(quaternions.log(factor * q), v, rtol=0, atol=1e-9)


def test_the_two_quaternions_of_a_rotation_are_the_same_state() -> None:
    q, p, v = rotations(300, 1), rotations(300, 2), vectors(300, 3, 1.0)
    t = torch.rand(300, generator=seeded(4))
    for sign0, sign1 in ((1, -1), (-1, 1), (-1, -1)):
        a, b = sign0 * q, sign1 * p
        torch.testing.assert_close(SPACE.log(a, b), SPACE.log(q, p), rtol=0, atol=1e-13)
        torch.testing.assert_close(SPACE.distance(a, b), SPACE.distance(q, p), rtol=0, atol=1e-13)
        assert float(SPACE.distance(SPACE.interpolate(a, b, t), SPACE.interpolate(q, p, t)).max()) < 1e-13
        assert float(SPACE.distance(SPACE.exp(a, v), SPACE.exp(q, v)).max()) < 1e-13
        torch.testing.assert_close(SPACE.transport(a, b, v), SPACE.transport(q, p, v), rtol=0, atol=1e-13)
        torch.testing.assert_close(SPACE.squared_distances(a, b), SPACE.squared_distances(q, p), rtol=0, atol=1e-12)
        torch.testing.assert_close(SPACE.residual(a, b, "data", q), SPACE.residual(q, p, "data", q), rtol=0, atol=1e-12)
    # Exactly half a turn, where the sign of w cannot tell.
    half = torch.tensor([[0.0, 0.6, -0.8, 0.0], [0.0, 0.0, 0.0, -1.0], [-0.0, -0.6, 0.0, 0.8]])
    assert torch.equal(quaternions.log(half), quaternions.log(-half))
    torch.testing.assert_close(quaternions.log(half).norm(dim=1), torch.full((3,), math.pi))


def test_turning_the_world_changes_no_tangent() -> None:
    q, p, g, v = rotations(200, 1), rotations(200, 2), rotations(200, 3), vectors(200, 4, 1.0)
    turned, also = quaternions.multiply(g, q), quaternions.multiply(g, p)
    t = torch.rand(200, generator=seeded(5))
    torch.testing.assert_close(SPACE.log(turned, also), SPACE.log(q, p), rtol=0, atol=1e-13)
    torch.testing.assert_close(SPACE.distance(turned, also), SPACE.distance(q, p), rtol=0, atol=1e-13)
    moved = quaternions.multiply(g, SPACE.interpolate(q, p, t))
    assert float(SPACE.distance(SPACE.interpolate(turned, also, t), moved).max()) < 1e-13
    stepped = quaternions.multiply(g, SPACE.step(q, v, 0.3))
    assert float(SPACE.distance(SPACE.step(turned, v, 0.3), stepped).max()) < 1e-13


def test_tangents_are_body_frame_angular_velocities() -> None:
    """dq/dt = q * (0, v) / 2, by finite differences; a body that spins about its own z axis turns its x towards its y."""
    q, v, e = rotations(100, 1), vectors(100, 2, 2.0), 1e-6
    numeric = (SPACE.step(q, v, e) - SPACE.step(q, v, -e)) / (2 * e)
    pure = torch.cat((torch.zeros(100, 1), v), 1)
    torch.testing.assert_close(numeric, quaternions.multiply(q, pure) / 2, rtol=0, atol=1e-9)
    spun = SPACE.step(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 0.0, math.pi / 2]]), 1.0)
    x_axis = quaternions.rotate(spun, torch.tensor([[1.0, 0, 0]]))
    torch.testing.assert_close(x_axis, torch.tensor([[0.0, 1, 0]]), rtol=0, atol=1e-15)


def test_transport_is_that_of_the_unit_quaternion_sphere() -> None:
    """S^3 covers SO(3) isometrically up to a factor 2, with ambient tangent q * (0, v) / 2 for body tangent v."""

    def lift(q: Tensor, v: Tensor) -> Tensor:
        return quaternions.multiply(q, torch.cat((torch.zeros(len(v), 1), v), 1)) / 2

    q, v = rotations(200, 1), vectors(200, 2, 1.0)
    p = quaternions.multiply(
        q, quaternions.exp(vectors(200, 3, math.pi - 0.01)[torch.randperm(200, generator=seeded())])
    )
    moved = SPACE.transport(q, p, v)
    torch.testing.assert_close(lift(p, moved), Sphere().transport(q, p, lift(q, v)), rtol=0, atol=1e-10)


def test_padding_of_zero_quaternions_stays_finite() -> None:
    zero, q = torch.zeros(3, 4).requires_grad_(True), rotations(3, 1)
    for value in (SPACE.log(zero, q), SPACE.log(q, zero), SPACE.project(zero), SPACE.exp(zero, torch.zeros(3, 3))):
        assert bool(torch.isfinite(value).all())
        (gradient,) = torch.autograd.grad(value.sum(), zero)
        assert bool(torch.isfinite(gradient).all())


def test_shapes_other_than_quaternions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(B, \.\.\., 4\).*\(2, 3\)"):
        SPACE.path(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2), Flow(lambda x, t: x).interpolant)
    for draw in (SPACE.sample_prior, IGSO3(1.0).sample, SO3(prior=IGSO3(1.0)).sample_prior):
        with pytest.raises(ConfigError, match=r"\(4,\)"):
            draw((4,), seeded())
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="IGSO3 has sigma"):
            IGSO3(sigma)


def heat_kernel(angle: np.ndarray, sigma: float) -> np.ndarray:
    """The character series to its last digit, over plain numpy."""
    order = np.arange(int(15 / sigma) + 2)[:, None]
    terms = (2 * order + 1) * np.exp(-order * (order + 1) * sigma**2 / 2)
    ratio = np.sin((order + 0.5) * angle) / np.sin(angle / 2)
    return (1 - np.cos(angle)) / np.pi * (terms * ratio).sum(0)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 0.99, 1.01, 1.5, 3.0, 40.0])
def test_igso3_density_is_the_heat_kernels(sigma: float) -> None:
    angle = np.linspace(1e-3, math.pi - 1e-6, 400)
    ours = IGSO3(sigma).density(torch.from_numpy(angle)).numpy()
    np.testing.assert_allclose(ours, heat_kernel(angle, sigma), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("sigma", "distance"), [(0.5, 0.82), (1.0, 0.43), (1.5, 0.130), (2.0, 0.023)])
def test_igso3_is_a_density_at_the_known_distance_from_uniform(sigma: float, distance: float) -> None:
    angle = torch.linspace(0, math.pi, 100_001)
    density, uniform = IGSO3(sigma).density(angle), (1 - torch.cos(angle)) / math.pi
    assert float(torch.trapezoid(density, angle)) == pytest.approx(1, abs=1e-9)
    assert float(torch.trapezoid((density - uniform).abs(), angle)) / 2 == pytest.approx(distance, abs=5e-3)


def test_small_sigma_is_maxwells_law_and_large_sigma_uniform() -> None:
    for sigma in (1e-6, 1e-3):
        angle = sigma * torch.linspace(0, 8, 200)
        maxwell = stats.maxwell(scale=sigma).pdf(angle.numpy())
        np.testing.assert_allclose(IGSO3(sigma).density(angle).numpy() * sigma, maxwell * sigma, atol=1e-5)
    q = IGSO3(1e-6).sample((20_000, 4), seeded(1))
    angle = 2 * torch.atan2(q[:, 1:].norm(dim=1), q[:, 0])
    assert stats.kstest(angle.numpy(), stats.maxwell(scale=1e-6).cdf).pvalue > 1e-4
    wide = IGSO3(1e3).sample((20_000, 4), seeded(2))
    angle = SPACE.distance(wide, torch.tensor([[1.0, 0, 0, 0]]))
    assert stats.kstest(angle.numpy(), lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.5])
def test_igso3_samples_follow_the_density_about_any_axis(sigma: float) -> None:
    n = 40_000
    q = SO3(prior=IGSO3(sigma)).sample_prior((n // 4, 4, 4), seeded(3)).reshape(n, 4)
    v = quaternions.log(q)
    grid = np.linspace(0, np.pi, 20_001)[1:]
    cumulative = np.cumsum(heat_kernel(grid, sigma)) * (grid[1] - grid[0])
    angle = v.norm(dim=1).numpy()
    assert stats.kstest(angle, lambda w: np.interp(w, grid, cumulative)).pvalue > 1e-4
    assert len(np.unique(np.round(angle, 13))) == n  # between the points of the table, not on them
    axis = (v / v.norm(dim=1, keepdim=True)).numpy()
    for column in range(3):
        assert stats.kstest((1 + axis[:, column]) / 2, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(angle, axis[:, 2])[0, 1]) < 4 / math.sqrt(n)


def test_brownian_motion_composes() -> None:
    """IGSO3(3/5 s) after IGSO3(4/5 s) is IGSO3(s): true of the heat kernel and of no other law of angles."""
    n = 20_000
    first, second = IGSO3(0.6).sample((n, 4), seeded(1)), IGSO3(0.8).sample((n, 4), seeded(2))
    angle = quaternions.log(quaternions.multiply(first, second)).norm(dim=1)
    grid = np.linspace(0, np.pi, 20_001)[1:]
    cumulative = np.cumsum(heat_kernel(grid, 1.0)) * (grid[1] - grid[0])
    assert stats.kstest(angle.numpy(), lambda w: np.interp(w, grid, cumulative)).pvalue > 1e-4


def test_igso3_is_a_source_and_repeats_itself() -> None:
    flow = Flow(lambda x, t: x[..., 1:], space=SPACE, source=IGSO3(0.5))
    draws = [flow.sample_source((6, 2, 4), None, seeded(7), dtype=torch.float32) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert draws[0].dtype == torch.float32
    assert draws[0].shape == (6, 2, 4)
    product = Product(turn=SO3(prior=IGSO3(0.5)))
    assert torch.equal(product.sample_prior({"turn": (6, 2, 4)}, seeded(7), dtype=torch.float32)["turn"], draws[0])
    assert not torch.equal(IGSO3(0.5).sample((6, 2, 4), seeded(8)), IGSO3(0.5).sample((6, 2, 4), seeded(7)))
