"""Values by least squares: the solution is that of the dense problem, and brings back what is thinner than a cell."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_shapes.mosaic import Mosaic, convert, evaluate
from rectiflow_shapes.mosaic_checking import fidelity
from rectiflow_shapes.mosaic_values import around_surface, fit_values
from rectiflow_shapes.preparing import sample_surface
from rectiflow_shapes.signed_distance import signed_distance


def torus(points: Tensor) -> Tensor:
    return torch.hypot(torch.hypot(points[..., 0], points[..., 1]) - 0.6, points[..., 2]) - 0.25


def torus_points(count: int, generator: torch.Generator) -> Tensor:
    angles = 2 * torch.pi * torch.rand(2, count, generator=generator)
    ring = 0.6 + 0.25 * angles[1].cos()
    return torch.stack([ring * angles[0].cos(), ring * angles[0].sin(), 0.25 * angles[1].sin()], dim=1)


def test_values_are_those_of_the_dense_problem(generator: torch.Generator) -> None:
    mosaic = Mosaic(
        torch.tensor([[0.0, 0, 0], [0.3, 0.1, 0], [-0.2, 0.2, 0.1]]).double(),
        torch.tensor([0.4, 0.3, 0.5]).double(),
        torch.randn(3, 3, 3, 3, generator=generator, dtype=torch.float64),
    )
    points = torch.rand(300, 3, generator=generator, dtype=torch.float64) - 0.5
    wanted = torch.randn(300, generator=generator, dtype=torch.float64)
    damping = 0.3

    def field(values: Tensor) -> Tensor:
        return evaluate(mosaic._replace(values=values.view(3, 3, 3, 3)), points)[0]

    start = mosaic.values.flatten()
    matrix = torch.autograd.functional.jacobian(field, start)
    covered = evaluate(mosaic, points)[1]
    missing = (wanted - field(start))[covered]
    stacked = torch.cat([matrix[covered], damping * torch.eye(81, dtype=torch.float64)])
    change = torch.linalg.lstsq(stacked, torch.cat([missing, torch.zeros(81, dtype=torch.float64)])[:, None]).solution
    assert 50 < int(covered.sum()) < 300
    found = fit_values(mosaic, points, wanted, damping=damping, iterations=400)
    torch.testing.assert_close(found.values.flatten(), start + change[:, 0], atol=1e-3, rtol=0)
    assert found.positions is mosaic.positions


def test_the_error_of_few_cubes_falls_fourfold_on_a_torus(generator: torch.Generator) -> None:
    mosaic = convert(torus_points(4096, generator), torus, 64)
    fitted = fit_values(mosaic, *around_surface(torus_points(20_000, generator), mosaic, torus, generator))
    points = torus_points(2000, generator) + 0.01 * torch.randn(2000, 3, generator=generator)
    first, last = (float((evaluate(each, points)[0] - torus(points)).abs().mean()) for each in (mosaic, fitted))
    assert last < first / 4


def test_a_wall_thinner_than_a_cell_comes_back(generator: torch.Generator) -> None:
    plate = trimesh.creation.box((1.2, 1.0, 0.03), transform=trimesh.transformations.rotation_matrix(0.4, [1, 2, 3]))

    def distance(queries: Tensor) -> Tensor:
        return signed_distance(plate, queries)

    mosaic = convert(sample_surface(plate, 8192, generator)[0], distance, 64)
    cell = float(mosaic.scales[0]) / 3
    assert cell > 0.04
    assert fidelity(mosaic, plate, 128).volume_ratio < 0.75
    told = around_surface(sample_surface(plate, 30_000, generator)[0], mosaic, distance, generator)
    found = fidelity(fit_values(mosaic, *told), plate, 128)
    assert found.volume_ratio == pytest.approx(1, abs=0.06)
    assert found.bodies == 1


def test_half_of_the_points_stay_on_the_surface(generator: torch.Generator) -> None:
    surface = torus_points(8000, generator)
    mosaic = convert(surface, torus, 32)
    points, distances = around_surface(surface, mosaic, torus, generator)
    torch.testing.assert_close(distances, torus(points))
    moved = (points - surface).view(-1, 4, 3) / (float(mosaic.scales[0]) / 3)
    assert (moved[:, :2] == 0).all()
    # 2000 points of 3 numbers each: the relative error of a deviation is 1 / sqrt(12000).
    assert moved[:, 2].std().item() == pytest.approx(0.3, rel=4 / 12000**0.5)
    assert moved[:, 3].std().item() == pytest.approx(1.0, rel=4 / 12000**0.5)


@pytest.mark.parametrize("wrong", [{"damping": -1.0}, {"iterations": 0}, {"distances": torch.zeros(3)}])
def test_what_cannot_be_fitted_is_said(wrong: dict[str, object], generator: torch.Generator) -> None:
    mosaic = convert(torus_points(200, generator), torus, 8)
    settings = {"distances": torch.zeros(5)} | wrong
    with pytest.raises(ConfigError, match="a fit of values got"):
        fit_values(mosaic, torch.zeros(5, 3), **settings)  # type: ignore[arg-type]
