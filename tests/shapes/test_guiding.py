"""Guided sampling, on a family of ellipsoids whose flow is known in closed form."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Shape, State
from rectiflow.errors import ConfigError, DataError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow_shapes.extraction import grid_points
from rectiflow_shapes.guiding import (
    be_symmetric,
    keep_parts,
    match_points,
    part_regions,
    polyak,
    sample_fields,
    sample_guided,
)
from rectiflow_shapes.metrics import chamfer
from rectiflow_shapes.representation import Representation, tensor_state
from rectiflow_shapes.shape_data import ShapeData


class Ellipsoids(Representation):
    """Logarithms of three radii, and where the centre lies along x."""

    ordered = True

    @property
    def shape(self) -> Shape:
        return (4,)

    def fit(self, train: ShapeData) -> None:
        raise NotImplementedError

    def encode(self, data: ShapeData) -> Tensor:
        raise NotImplementedError

    def decode(self, x: State) -> Tensor:
        state = tensor_state(x)
        radii = (0.35 * state[:, :3] - 0.8).exp()[:, None, None, None]
        shift = torch.nn.functional.pad(0.15 * state[:, 3:], (0, 2))[:, None, None, None]
        return (((grid_points(32) - shift) / radii).norm(dim=-1) - 1) * radii.amin(-1)


ELLIPSOIDS = Ellipsoids()


def flow() -> Flow:
    return GaussianFlow(torch.zeros(4), torch.eye(4)).flow()


def points_of(state: Tensor, count: int = 512) -> Tensor:
    mesh = ELLIPSOIDS.meshes(state)[0]
    return torch.from_numpy(trimesh.sample.sample_surface(mesh, count, seed=0)[0]).float()


def noise(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 4, generator=generator)


@pytest.mark.parametrize("through_network", [False, True])
def test_points_of_a_shape_lead_to_it(generator: torch.Generator, through_network: bool) -> None:
    target = torch.tensor([[1.5, -1.0, 0.3, -0.8]])
    points, x0 = points_of(target), noise(8, generator)
    unguided = integrate(flow(), x0, steps=10, method="euler").x
    best = min(chamfer(points_of(x[None]), points).cd_l2sq_sum for x in unguided)
    guided = sample_guided(flow(), x0[:1], ELLIPSOIDS, match_points(points), steps=10, through_network=through_network)
    assert isinstance(guided.x, Tensor)
    torch.testing.assert_close(guided.x, target, atol=0.15, rtol=0)
    assert chamfer(points_of(guided.x), points).cd_l2sq_sum < best / 2


def test_a_partial_scan_is_met_and_the_rest_is_left_free(generator: torch.Generator) -> None:
    target = torch.tensor([[0.5, -0.5, 0.5, 0.0]])
    points = points_of(target, 2000)
    scan = points[points[:, 1] > 0.97 * points[:, 1].max()]
    x0 = noise(6, generator)
    guided = sample_guided(flow(), x0, ELLIPSOIDS, match_points(scan, whole=False), steps=10).x
    assert isinstance(guided, Tensor)
    assert sample_fields(ELLIPSOIDS.decode(guided), scan).abs().mean() < 0.02
    assert guided[:, 0].std() > 0.2


def test_symmetry_is_reached_along_its_axis_only(generator: torch.Generator) -> None:
    x0 = noise(6, generator)
    guided = sample_guided(flow(), x0, ELLIPSOIDS, be_symmetric(0), steps=10).x
    plain = integrate(flow(), x0, steps=10, method="euler").x
    assert isinstance(guided, Tensor)
    assert guided[:, 3].abs().max() < 0.1 * plain[:, 3].abs().max()
    assert (guided[:, :3] - plain[:, :3]).abs().max() < 0.5
    fields = ELLIPSOIDS.decode(plain)
    assert be_symmetric(1)(fields).max() < 1e-10
    assert be_symmetric(0)(fields).min() > 1e-6


def test_kept_parts_bring_their_neighbourhood_along(generator: torch.Generator) -> None:
    target = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    reference = ELLIPSOIDS.decode(target)[0]
    regions = part_regions(points_of(target), 2, 32)
    assert regions.unique().tolist() == [0, 1]
    kept = (regions == 0) & (reference.abs() < 0.2)
    loss = keep_parts(reference, kept)
    assert float(loss(reference[None])) == 0
    guided = sample_guided(flow(), noise(2, generator), ELLIPSOIDS, loss, steps=10).x
    assert isinstance(guided, Tensor)
    assert loss(ELLIPSOIDS.decode(guided)).max() < 1e-3
    with pytest.raises(DataError, match="kept"):
        keep_parts(reference, torch.zeros_like(kept))


def test_fields_are_read_where_the_points_are(generator: torch.Generator) -> None:
    field = grid_points(9) @ torch.tensor([1.0, 10.0, 100.0])
    points = 2 * torch.rand(50, 3, generator=generator) - 1
    expected = points @ torch.tensor([1.0, 10.0, 100.0])
    torch.testing.assert_close(sample_fields(field[None], points)[0], expected, atol=1e-4, rtol=0)


def test_polyak_steps_halve_the_distance_to_the_foot_of_a_parabola() -> None:
    state = torch.tensor([[0.3, -0.2], [0.0, 0.0]], requires_grad=True)
    loss = polyak(lambda x: 7 * x.square().sum(1))
    slope = torch.autograd.grad(loss(state).sum(), state)[0]
    torch.testing.assert_close(slope, state.detach() / 2)
    far = torch.tensor([[300.0, -400.0]], requires_grad=True)
    step = torch.autograd.grad(loss(far).sum(), far)[0]
    torch.testing.assert_close(step.square().mean().sqrt(), torch.tensor(0.5))


def test_what_cannot_guide_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(DataError, match="shape"):
        match_points(torch.zeros(0, 3))
    with pytest.raises(ConfigError, match="axis"):
        be_symmetric(3)
    with pytest.raises(ConfigError, match="strength"):
        sample_guided(flow(), noise(1, generator), ELLIPSOIDS, be_symmetric(), strength=2)
    with pytest.raises(ConfigError, match="no gradient"):
        sample_guided(
            flow(), noise(1, generator), ELLIPSOIDS, lambda fields: fields.detach().flatten(1).sum(1), steps=3
        )
