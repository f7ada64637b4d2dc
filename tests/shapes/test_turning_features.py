"""Features of points turn with their shape, and say something of it."""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor

from rectiflow_shapes.turning_features import REACH, TurningFeatures, moments


def cloud(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    normals = torch.nn.functional.normalize(torch.randn(2, 300, 3, generator=generator, dtype=torch.float64), dim=-1)
    return normals * torch.tensor([0.4, 0.6, 0.3]).double(), normals


def test_features_of_a_turned_shape_are_turned(generator: torch.Generator) -> None:
    points, normals = cloud(generator)
    network = TurningFeatures(64, generator=generator).double()
    turn = tuple(torch.tensor(angle, dtype=torch.float64) for angle in (0.3, 1.1, -2.0))
    matrix = o3.angles_to_matrix(*turn)
    before = network.parts(points[:, :20], points, normals)
    after = network.parts(points[:, :20] @ matrix.T, points @ matrix.T, normals @ matrix.T)
    for degree, (old, new) in enumerate(zip(before, after, strict=True)):
        turned = old @ o3.wigner_D(degree, *turn).T
        assert float(old.detach().abs().mean()) > 1e-3
        torch.testing.assert_close(new, turned, atol=1e-5, rtol=1e-5)
    flat = network(points[:, :20], points, normals)
    assert flat.shape == (2, 20, network.outputs)


def test_moments_are_of_what_is_near(generator: torch.Generator) -> None:
    points, normals = cloud(generator)
    at = points[:, :1]
    far = (points - at).norm(dim=-1) > REACH * 4 / 3
    moved = torch.where(far[..., None], points * 1.5, points)
    for one, other in zip(moments(at, points, normals), moments(at, moved, normals), strict=True):
        torch.testing.assert_close(one, other)
    # In the first degree of the innermost shell's normals: their mean, times the root of three that components have.
    found = moments(at, points, normals)[1][0, 0]
    assert torch.nn.functional.cosine_similarity(found[4], normals[0, 0], dim=0) > 0.9
