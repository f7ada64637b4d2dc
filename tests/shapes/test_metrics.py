"""Figures of shapes against independent definitions, and what they give where the answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes import metrics
from rectiflow_shapes.solids import FAMILIES, draw


def cloud(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1


def sphere(count: int, generator: torch.Generator, radius: float = 0.9) -> Tensor:
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return radius * points / points.norm(dim=1, keepdim=True)


def test_chamfer_of_two_points_and_one_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 0], [3.0, 0, 0]]), torch.tensor([[0.0, 4, 0]])
    # d from a: 4 and 5; from b: 4.
    assert metrics.chamfer(a, b) == pytest.approx((41 / 2 + 16, 4.5 + 4, 8.5 / 2))


def test_chamfer_agrees_with_brute_force(generator: torch.Generator) -> None:
    a, b = cloud(300, generator), cloud(200, generator)
    gaps = (a[:, None] - b).norm(dim=-1)
    squared = gaps.amin(1).square().mean() + gaps.amin(0).square().mean()
    plain = gaps.amin(1).mean() + gaps.amin(0).mean()
    assert metrics.chamfer(a, b) == pytest.approx((float(squared), float(plain), float(plain) / 2), abs=1e-12)
    assert metrics.chamfer(b, a) == pytest.approx(metrics.chamfer(a, b), abs=1e-15)
    assert metrics.chamfer(a, a[torch.randperm(300, generator=generator)]) == (0, 0, 0)


def test_chamfer_matrix_is_that_of_the_pairs(generator: torch.Generator) -> None:
    a = torch.stack([cloud(130, generator) for _ in range(5)]).float()
    b = torch.stack([cloud(70, generator) for _ in range(4)]).float()
    expected = []
    for x, y in itertools.product(a.numpy(), b.numpy()):
        forth, back = cKDTree(y).query(x)[0], cKDTree(x).query(y)[0]
        expected.append((forth**2).mean() + (back**2).mean())
    found = metrics.chamfer_matrix(a, b)
    assert np.abs(found.numpy().ravel() - expected).max() <= 1e-6
    own = metrics.chamfer_matrix(a, a)
    assert torch.equal(own, own.T)
    torch.testing.assert_close(own, metrics.chamfer_matrix(a, a.clone()), atol=1e-6, rtol=0)
    assert 0 <= own.diagonal().min() <= own.diagonal().max() <= 1e-6


def test_f_score_counts_points_within_the_threshold() -> None:
    a = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]])
    b = torch.tensor([[0.0, 0.01, 0], [9.0, 0, 0]])
    precision, recall = 1 / 4, 1 / 2
    assert metrics.f_score(a, b, 0.02) == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.f_score(a, b, 0.005) == 0
    assert metrics.f_score(a, a, 0.005) == 1


def test_normals_forgive_flips_only_unsigned(generator: torch.Generator) -> None:
    a, b = sphere(3000, generator), sphere(3000, generator)
    same = metrics.normal_consistency(a, a / 0.9, b, b / 0.9)
    assert same.unsigned > 0.99
    assert same.signed > 0.99
    flipped = metrics.normal_consistency(a, a / 0.9, b, -b / 0.9)
    assert flipped.unsigned == pytest.approx(same.unsigned)
    assert flipped.signed == pytest.approx(-same.signed)
    turned = torch.stack([-b[:, 1], b[:, 0], torch.zeros(len(b))], dim=1)  # tangent everywhere
    assert metrics.normal_consistency(a, a / 0.9, b, turned / 0.9).unsigned < 0.1


def test_iou_of_two_boxes_and_of_nothing() -> None:
    x = torch.linspace(0, 1, 1001)
    assert metrics.volume_iou(x < 0.6, x >= 0.3) == pytest.approx(0.3, abs=2e-3)
    assert metrics.volume_iou(x < 0.6, x >= 0.7) == 0
    assert metrics.volume_iou(x > 2, x > 2) == 1
    with pytest.raises(ConfigError, match="same points"):
        metrics.volume_iou(x > 0, x[:5] > 0)


def test_emd_of_a_translate_is_the_shift_and_of_three_points_the_best_matching(generator: torch.Generator) -> None:
    a = cloud(100, generator)
    shift = torch.tensor([3.0, -4.0, 12.0])
    assert metrics.emd(a, a + shift) == pytest.approx(13, abs=1e-6)
    assert metrics.emd(a, a[torch.randperm(100, generator=generator)] + 1e-3 * shift) == pytest.approx(0.013, abs=1e-6)
    x, y = cloud(4, generator), cloud(4, generator)
    best = min(float((x - y[list(order)]).norm(dim=1).mean()) for order in itertools.permutations(range(4)))
    assert metrics.emd(x, y) == pytest.approx(best)
    with pytest.raises(DataError, match="equal"):
        metrics.emd(a, a[:50])


def test_floors_shrink_as_the_points_grow(generator: torch.Generator) -> None:
    few, many = (metrics.floors(lambda n: sphere(n, generator), count) for count in (500, 5000))
    # On an area A, n points lie A / (pi n) in square from a spot, on average; both directions add.
    for count, figures in ((500, few), (5000, many)):
        assert figures["cd_l2sq_sum"] == pytest.approx(2 * 4 * math.pi * 0.9**2 / (math.pi * count), rel=0.2)
    assert few["f_score_0.02"] < many["f_score_0.02"] < 1


def test_matching_and_coverage_by_hand() -> None:
    between = torch.tensor([[1.0, 5.0, 6.0], [2.0, 4.0, 9.0]])
    assert metrics.mmd(between) == pytest.approx((1 + 4 + 6) / 3)
    assert metrics.coverage(between) == pytest.approx(1 / 3)
    assert metrics.coverage(between.T) == 1


def line(positions: list[float], others: list[float]) -> Tensor:
    return (torch.tensor(positions)[:, None] - torch.tensor(others)).abs()


def one_nna(s: list[float], r: list[float]) -> float:
    return metrics.nearest_neighbour_accuracy(line(s, s), line(s, r), line(r, r))


def test_one_nna_where_the_neighbours_are_known() -> None:
    assert one_nna([0, 1, 2], [100, 101, 102]) == 1
    assert one_nna([0, 10, 20], [1, 11, 21]) == 0
    assert one_nna([0, 1, 10], [11, 20, 21]) == pytest.approx(4 / 6)


def test_one_nna_of_copies_is_zero_whatever_their_number() -> None:
    copied = [0.0, 3.0, 7.0]
    assert one_nna(copied, copied) == 0
    # Every shape twice in either set: its neighbours at distance 0 are one of its own set and two of the other.
    assert one_nna(copied * 2, copied * 2) == pytest.approx(1 / 3)
    # A generator that says one thing: its samples are near each other, whatever the references are.
    assert one_nna([0.0] * 4, [5.0, 7.0, 11.0, 16.0]) == 1


def test_one_nna_tells_spheres_from_discs_but_not_spheres_from_spheres(generator: torch.Generator) -> None:
    def spheres(count: int) -> Tensor:
        return torch.stack([sphere(128, generator, 0.5 + 0.4 * i / count) for i in range(count)])

    a, b = spheres(24), spheres(24)
    c = spheres(24) * torch.tensor([1.0, 1.0, 0.05])
    aa, bb, cc = (metrics.chamfer_matrix(x, x) for x in (a, b, c))
    alike = metrics.nearest_neighbour_accuracy(aa, metrics.chamfer_matrix(a, b), bb)
    assert 0.1 < alike < 0.9
    assert metrics.nearest_neighbour_accuracy(aa, metrics.chamfer_matrix(a, c), cc) >= 0.95


def clouds_of(kind: str, count: int, seed: int, points: int = 256) -> Tensor:
    label = list(FAMILIES["demo"]).index(kind)
    meshes = [draw("demo", label + place * len(FAMILIES["demo"]), seed).mesh for place in range(count)]
    sampled = [trimesh.sample.sample_surface(mesh, points, seed=1000 * seed + n)[0] for n, mesh in enumerate(meshes)]
    return torch.from_numpy(np.stack(sampled)).float()


def test_one_nna_of_two_halves_is_near_a_half_and_of_chairs_and_tables_near_one() -> None:
    chairs, others, tables = clouds_of("chair", 64, 0), clouds_of("chair", 64, 1), clouds_of("table", 64, 0)
    own, theirs, flat = (metrics.chamfer_matrix(x, x) for x in (chairs, others, tables))
    halves = metrics.nearest_neighbour_accuracy(own, metrics.chamfer_matrix(chairs, others), theirs)
    assert halves == pytest.approx(0.5, abs=0.15)
    apart = metrics.nearest_neighbour_accuracy(own, metrics.chamfer_matrix(chairs, tables), flat)
    assert apart >= 0.95


def test_null_of_one_nna_is_near_a_half(generator: torch.Generator) -> None:
    points = torch.rand(128, 2, generator=generator)
    null = metrics.nearest_neighbour_null(torch.cdist(points, points), generator)
    assert null.mean == pytest.approx(0.5, abs=4 * null.deviation / 10 + 0.01)
    assert 0.01 < null.deviation < 0.1


def test_set_figures_do_not_depend_on_the_order(generator: torch.Generator) -> None:
    a, b = torch.rand(6, 40, 3, generator=generator), torch.rand(6, 40, 3, generator=generator)
    shuffled = a[torch.randperm(6, generator=generator)][:, torch.randperm(40, generator=generator)]
    figures = []
    for x in (a, shuffled):
        xb = metrics.chamfer_matrix(x, b)
        accuracy = metrics.nearest_neighbour_accuracy(metrics.chamfer_matrix(x, x), xb, metrics.chamfer_matrix(b, b))
        figures.append((metrics.mmd(xb), metrics.coverage(xb), accuracy))
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_clouds_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        metrics.chamfer(torch.zeros(0, 3), torch.zeros(1, 3))
    with pytest.raises(DataError, match="NaN"):
        metrics.chamfer(torch.full((1, 3), float("nan")), torch.zeros(1, 3))
    with pytest.raises(DataError, match="shapes"):
        metrics.chamfer_matrix(torch.zeros(2, 3), torch.zeros(2, 3))
