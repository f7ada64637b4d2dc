"""Mosaic-SDF: how near its field is to exact distances, that its cubes cover, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.extraction import grid_points, surface
from rectiflow_shapes.farthest_points import farthest_points
from rectiflow_shapes.meshes import inspect
from rectiflow_shapes.mosaic import Mosaic, convert, decode, evaluate, evaluate_on_grid, node_points
from rectiflow_shapes.mosaic_fitting import fit, targets

BOX = (0.5, 0.35, 0.7)


def torus(points: Tensor) -> Tensor:
    return torch.hypot(torch.hypot(points[..., 0], points[..., 1]) - 0.6, points[..., 2]) - 0.25


def box(points: Tensor) -> Tensor:
    beyond = points.abs() - points.new_tensor(BOX)
    return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)


def torus_points(count: int, generator: torch.Generator) -> Tensor:
    angles = 2 * torch.pi * torch.rand(2, 4 * count, generator=generator)
    ring = 0.6 + 0.25 * angles[1].cos()
    kept = torch.rand(4 * count, generator=generator) < ring / 0.85  # area grows with the ring
    points = torch.stack([ring * angles[0].cos(), ring * angles[0].sin(), 0.25 * angles[1].sin()], dim=1)
    return points[kept][:count]


def box_points(count: int, generator: torch.Generator) -> Tensor:
    half = torch.tensor(BOX)
    areas = torch.stack([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    axis = torch.multinomial(areas, count, replacement=True, generator=generator)
    points = (2 * torch.rand(count, 3, generator=generator) - 1) * half
    side = 2.0 * torch.randint(2, (count,), generator=generator) - 1
    points[torch.arange(count), axis] = side * half[axis]
    return points


def mean_error(shape: str, count: int, generator: torch.Generator) -> float:
    distance, sample = (torus, torus_points) if shape == "torus" else (box, box_points)
    mosaic = convert(sample(8192, generator), distance, count)
    points = sample(4000, generator)
    assert evaluate(mosaic, points)[1].all()
    points = points + 0.01 * torch.randn(4000, 3, generator=generator)
    values, _ = evaluate(mosaic, points)
    return float((values - distance(points)).abs().mean())


def few_cubes(generator: torch.Generator, count: int = 40, nodes: int = 4) -> Mosaic:
    """Cubes of several sizes, some of which reach out of the box."""
    positions = 2 * torch.rand(count, 3, generator=generator) - 1
    scales = 0.05 + 0.3 * torch.rand(count, generator=generator)
    return Mosaic(positions, scales, torch.randn(count, nodes, nodes, nodes, generator=generator))


def test_error_falls_at_second_order_on_a_torus_and_at_first_on_a_box(generator: torch.Generator) -> None:
    few, more, most = (mean_error("torus", count, generator) for count in (64, 256, 1024))
    assert few <= 4e-3
    assert more <= 1e-3
    assert most <= 2.5e-4
    assert few / more >= 3
    assert mean_error("box", 256, generator) <= 3e-3


def test_field_is_the_weighted_mean_of_the_cubes_that_hold_a_point(generator: torch.Generator) -> None:
    mosaic = few_cubes(generator)
    points = 2.4 * torch.rand(500, 3, generator=generator) - 1.2
    axis = np.linspace(-1, 1, 4)
    expected = np.zeros(500)
    total = np.zeros(500)
    for position, scale, values in zip(*(part.double().numpy() for part in mosaic), strict=True):
        offset = (points.double().numpy() - position) / scale
        weight = np.maximum(1 - np.abs(offset).max(1), 0)
        tri = RegularGridInterpolator((axis, axis, axis), values, bounds_error=False, fill_value=0.0)
        expected += weight * tri(offset)
        total += weight
    values, covered = evaluate(mosaic, points)
    assert np.array_equal(covered.numpy(), total > 0)
    assert 0.1 < float(covered.float().mean()) < 0.99
    reached = total > 1e-4
    assert np.abs(values.numpy()[reached] - expected[reached] / total[reached]).max() < 1e-4
    assert (values[~covered] == 0).all()


@pytest.mark.parametrize("resolution", [9, 24])
def test_grids_and_points_give_the_same_field(generator: torch.Generator, resolution: int) -> None:
    mosaic = few_cubes(generator)
    values, covered = evaluate_on_grid(mosaic, resolution)
    points = grid_points(resolution).reshape(-1, 3)
    expected, reached = evaluate(mosaic, points)
    assert torch.equal(covered.flatten(), reached)
    torch.testing.assert_close(values.flatten(), expected, atol=2e-5, rtol=0)


def test_affine_fields_are_reproduced_wherever_a_cube_reaches(generator: torch.Generator) -> None:
    positions, scales, _ = few_cubes(generator)
    normal = torch.tensor([0.3, -0.7, 0.2])
    mosaic = Mosaic(positions, scales, node_points(positions, scales, 5) @ normal + 0.1)
    points = 2 * torch.rand(2000, 3, generator=generator) - 1
    values, covered = evaluate(mosaic, points)
    # So the weights sum to one, too.
    torch.testing.assert_close(values[covered], points[covered] @ normal + 0.1, atol=1e-5, rtol=0)


def test_the_order_of_the_cubes_carries_no_meaning(generator: torch.Generator) -> None:
    mosaic = convert(torus_points(2000, generator), torus, 64)
    order = torch.randperm(64, generator=generator)
    shuffled = Mosaic(*(part[order] for part in mosaic))
    points = torus_points(1000, generator)
    torch.testing.assert_close(evaluate(shuffled, points)[0], evaluate(mosaic, points)[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(decode(shuffled, 24), decode(mosaic, 24), atol=1e-6, rtol=0)


@pytest.mark.parametrize("on_grid", [False, True])
def test_gradients_are_those_of_finite_differences(generator: torch.Generator, on_grid: bool) -> None:
    mosaic = Mosaic(*(part.double().requires_grad_() for part in few_cubes(generator, count=3, nodes=3)))
    if on_grid:
        field = lambda *parts: evaluate_on_grid(Mosaic(*parts), 5)[0]  # noqa: E731
        assert torch.autograd.gradcheck(field, tuple(mosaic), fast_mode=True)
    else:
        points = (0.3 * torch.randn(20, 3, generator=generator, dtype=torch.float64)).requires_grad_()
        field = lambda points, *parts: evaluate(Mosaic(*parts), points)[0]  # noqa: E731
        assert torch.autograd.gradcheck(field, (points, *mosaic), fast_mode=True)


def test_a_decoded_box_is_one_solid(generator: torch.Generator) -> None:
    mosaic = convert(box_points(4096, generator), box, 128)
    mesh = surface(decode(mosaic, 64))
    assert mesh.is_volume
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(0.98, rel=0.02)
    assert inspect(mesh).valid
    # Uncovered space as outside throughout makes a shell inside the solid, which is closed as well.
    values, covered = evaluate_on_grid(mosaic, 64)
    shells = surface(torch.where(covered, values, torch.ones(())))
    assert shells.is_watertight
    assert shells.body_count == 2
    assert not inspect(shells).valid


def test_farthest_points_are_the_farthest(generator: torch.Generator) -> None:
    points = torch.randn(200, 3, generator=generator)
    chosen = farthest_points(points, 30, start=7)
    assert chosen[0] == 7
    for place in range(1, 30):
        gaps = torch.cdist(points, points[chosen[:place]]).amin(1)
        assert gaps[chosen[place]] == pytest.approx(float(gaps.max()), rel=1e-5)
    with pytest.raises(DataError, match="201 points of 200"):
        farthest_points(points, 201)


def test_settings_without_meaning_are_refused(generator: torch.Generator) -> None:
    points = torus_points(100, generator)
    with pytest.raises(ConfigError, match="margin"):
        convert(points, torus, 10, margin=0.9)
    with pytest.raises(ConfigError, match="nodes"):
        convert(points, torus, 10, nodes=1)


def fitted(steps: int, batch: int, generator: torch.Generator) -> tuple[float, float]:
    """Mean error of a torus of 64 cubes near its surface, before and after a fit."""
    mosaic = convert(torus_points(4096, generator), torus, 64)
    better = fit(mosaic, targets(torus_points(4096, generator), torus, generator), generator, steps=steps, batch=batch)
    points = torus_points(2000, generator) + 0.01 * torch.randn(2000, 3, generator=generator)
    first, last = (float((evaluate(each, points)[0] - torus(points)).abs().mean()) for each in (mosaic, better))
    return first, last


def test_targets_are_distances_and_unit_normals(generator: torch.Generator) -> None:
    points = torus_points(400, generator)
    wanted = targets(points, torus, generator)
    torch.testing.assert_close(wanted.distances, torus(wanted.points))
    moved = (wanted.points - points).norm(dim=1)
    assert (moved[1::2] == 0).all()
    assert float(moved[::2].square().mean()) == pytest.approx(3e-4, rel=0.3)
    exact = wanted.points.clone().requires_grad_()
    normals = torch.autograd.grad(torus(exact).sum(), exact)[0]
    torch.testing.assert_close(wanted.gradients, normals, atol=1e-3, rtol=0)


def test_a_short_fit_lowers_the_error(generator: torch.Generator) -> None:
    first, last = fitted(30, 256, generator)
    assert last < 0.6 * first


@pytest.mark.slow
def test_a_fit_of_200_steps_lowers_the_error_fourfold(generator: torch.Generator) -> None:
    first, last = fitted(200, 1024, generator)
    assert last < first / 4
