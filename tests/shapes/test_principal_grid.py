"""Principal components of distance grids, against torch's own singular values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trimesh

from rectiflow.errors import ConfigError
from rectiflow_shapes.principal_grid import PrincipalGrid
from rectiflow_shapes.shape_data import ShapeData


def shapes(grids: torch.Tensor, key: str) -> ShapeData:
    """Shapes that are nothing but grids."""
    count = len(grids)
    return ShapeData(
        key,
        ("blob",),
        torch.zeros(count, dtype=torch.long),
        (),
        torch.zeros(count, 0),
        ("a blob",) * count,
        {"grid": grids.half()},
        lambda _: trimesh.Trimesh(),
    )


@pytest.fixture
def grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 8**3, generator=generator)
    return (0.5 + torch.randn(40, 6, generator=generator) @ mixing).unflatten(1, (8, 8, 8)).half().float()


def test_all_components_give_the_shapes_back(grids: torch.Tensor) -> None:
    made = PrincipalGrid(components=8, columns=4)
    made.fit(shapes(grids, "low-rank"))
    assert made.shape == (2, 4)
    states = made.encode(shapes(grids, "low-rank"))
    assert states.shape == (40, 2, 4)
    torch.testing.assert_close(made.decode(states), grids, rtol=0, atol=0.02)  # half precision keeps three digits


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_variances_are_the_singular_values(grids: torch.Tensor, whitening: float) -> None:
    made = PrincipalGrid(components=4, columns=2, whitening=whitening)
    made.fit(shapes(grids, "variances"))
    states = made.encode(shapes(grids, "variances")).flatten(1)
    singular = torch.linalg.svdvals(grids.flatten(1) - grids.flatten(1).mean(0))[:4] / 40**0.5
    expected = singular ** (1 - whitening)
    expected = expected / expected.square().mean().sqrt()
    torch.testing.assert_close(states.square().mean(0).sqrt(), expected, rtol=1e-3, atol=0)
    assert states.mean(0).abs().max() < 1e-2
    torch.testing.assert_close(made.basis.T @ made.basis, torch.eye(4), rtol=0, atol=1e-4)


def test_few_components_are_the_best_plane(grids: torch.Tensor) -> None:
    made = PrincipalGrid(components=4, columns=4)
    made.fit(shapes(grids, "plane"))
    error = (made.decode(made.encode(shapes(grids, "plane"))) - grids).square().sum()
    singular = torch.linalg.svdvals(grids.flatten(1) - grids.flatten(1).mean(0))
    torch.testing.assert_close(error, singular[4:].square().sum(), rtol=1e-3, atol=0)  # Eckart and Young


def test_what_was_found_is_kept(grids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    data, made, again = shapes(grids, "kept"), PrincipalGrid(4, 4), PrincipalGrid(4, 4)
    made.fit(data)
    monkeypatch.setattr(PrincipalGrid, "_analyse", lambda *_: pytest.fail("found again"))
    again.fit(data)
    assert torch.equal(again.basis, made.basis)


def test_wrong_settings(grids: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="10 components in tokens of 4"):
        PrincipalGrid(10, 4)
    with pytest.raises(ConfigError, match="whitening=2"):
        PrincipalGrid(8, 4, whitening=2)
    with pytest.raises(ConfigError, match="need more training shapes than 40"):
        PrincipalGrid(64, 4).fit(shapes(grids, "few"))
