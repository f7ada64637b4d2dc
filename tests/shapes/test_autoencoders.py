"""Autoencoders of shapes: what they are given comes back, sets stay sets, gradients are those of the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh

from rectiflow.batch import State
from rectiflow.errors import CheckpointCorrupt, ConfigError
from rectiflow_shapes.autoencoding import LearnedRepresentation
from rectiflow_shapes.latent_grid import GridAutoencoder, LatentGrid
from rectiflow_shapes.latent_set import LatentSet
from rectiflow_shapes.set_autoencoder import SetAutoencoder, waves
from rectiflow_shapes.shape_data import ShapeData

BAND = 0.15


def balls(count: int, key: str = "balls") -> ShapeData:
    """Balls of radius 0.4 to 0.8, whose distances are known."""
    generator = torch.Generator().manual_seed(0)
    radii = 0.4 + 0.4 * torch.rand(count, generator=generator)
    axis = torch.linspace(-1, 1, 32)
    reach = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    normals = torch.nn.functional.normalize(torch.randn(count, 512, 3, generator=generator), dim=-1)
    cloud = normals * radii[:, None, None]
    near = cloud + 0.05 * torch.randn(count, 512, 3, generator=generator)
    arrays = {
        "grid": ((reach - radii[:, None, None, None]) / BAND).clamp(-1, 1),
        "cloud": cloud,
        "normals": normals,
        "near": near,
        "distance": near.norm(dim=-1) - radii[:, None],
    }
    half = {name: value.half() for name, value in arrays.items()}
    empty = torch.zeros(count, 0)
    labels = torch.zeros(count, dtype=torch.long)
    return ShapeData(key, ("ball",), labels, (), empty, ("a ball",) * count, half, lambda _: trimesh.Trimesh())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))


def training(steps: int) -> dict[str, Any]:
    return {"steps": steps, "batch": 8, "learning_rate": 3e-3, "warmup": 5, "ema": 0.9, "tensorboard": False}


def volume_iou(made: LearnedRepresentation, data: ShapeData) -> float:
    truth = data.array("grid") < 0
    fields = made.decode(made.encode(data))
    nodes = torch.nn.functional.interpolate(fields[:, None], (32, 32, 32), mode="trilinear", align_corners=True)[:, 0]
    return float(((nodes < 0) & truth).sum() / ((nodes < 0) | truth).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        LatentGrid(side=4, channels=4, width=32, training=training(60)),
        LatentSet(tokens=16, channels=4, width=32, depth=1, normal=0, eikonal=0, resolution=33, training=training(300)),
    ],
    ids=["grid", "set"],
)
def test_some_steps_teach_balls(made: LearnedRepresentation) -> None:
    data = balls(32)
    made.fit(data)
    states = made.encode(data)
    for part in states.values() if isinstance(states, dict) else [states]:
        assert part.square().mean().sqrt() == pytest.approx(1, abs=0.1)
    assert volume_iou(made, data.pick(torch.arange(4))) > 0.8


def test_what_was_trained_is_kept_and_named_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    data = balls(8)

    def grid(**settings: Any) -> LatentGrid:
        return LatentGrid(side=2, channels=2, width=8, training=training(1), **settings)

    first, second = grid(), grid()
    first.fit(data)
    monkeypatch.setattr(LearnedRepresentation, "_train", lambda *_: pytest.fail("trained again"))
    second.fit(data)
    assert torch.equal(first.encode(data), second.encode(data))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        grid(noise=0.2).fit(data)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        grid().fit(balls(8, "others"))
    with pytest.raises(CheckpointCorrupt, match="another autoencoder"):
        grid()._load({"read.weight": torch.zeros(1)})


def test_grid_patches_are_in_their_places() -> None:
    network = GridAutoencoder(4, 4, 16, 0.1, 1e-3, generator=torch.Generator().manual_seed(0))
    for block in (network.encoder, network.decoder):
        block[0].attention.output.weight.data.zero_()  # tokens do not speak to one another
    for block in network.decoder:
        block.attention.output.weight.data.zero_()
    grids = torch.rand(1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    changed = grids.clone()
    changed[0, 8:16, 24:32, 0:8] += 1  # patch (1, 3, 0)
    codes = (network.encode(grids) - network.encode(changed)).abs().amax(-1)[0]
    assert codes.nonzero().flatten().tolist() == [1 * 16 + 3 * 4 + 0]
    moved = (network.decode(network.encode(grids)) - network.decode(network.encode(changed))).abs()[0] > 1e-7
    places = moved.nonzero()
    low, high = places.amin(0).tolist(), places.amax(0).tolist()
    assert all(a - 4 <= b for a, b in zip((8, 24, 0), low, strict=True))
    assert low[0] >= 4
    assert low[1] >= 20
    assert high[2] < 12  # two convolutions reach two cells of two nodes
    assert high[0] < 20


def set_network(**settings: Any) -> SetAutoencoder:
    told: dict[str, Any] = {"tokens": 16, "channels": 4, "width": 16, "depth": 1, "anchored": True}
    told |= {"kl": 1e-4, "normal": 0.1, "eikonal": 0.1}
    return SetAutoencoder(**(told | settings), generator=torch.Generator().manual_seed(0))


def test_order_of_tokens_and_of_points_means_nothing() -> None:
    network, data = set_network(), balls(2)
    cloud, normals = data.array("cloud"), data.array("normals")
    codes, positions = network.encode(cloud, normals)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(511, generator=torch.Generator().manual_seed(2))])
    again, points = network.encode(cloud[:, order], normals[:, order])
    torch.testing.assert_close(points, positions, rtol=0, atol=0)  # farthest points, from the same first
    torch.testing.assert_close(again, codes, rtol=0, atol=1e-5)
    turn = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    ask = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(4)) * 2 - 1
    straight = network.distances(network.tokens(codes, positions), positions, ask)
    turned = network.distances(network.tokens(codes[:, turn], positions[:, turn]), positions[:, turn], ask)
    torch.testing.assert_close(turned, straight, rtol=0, atol=1e-5)


def test_only_anchored_sets_see_their_points() -> None:
    ask = torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(0))
    codes, far = torch.ones(1, 16, 4), torch.full((1, 16, 3), 0.9)
    for anchored in (True, False):
        network = set_network(anchored=anchored)
        here, there = (network.distances(network.tokens(codes, at), at, ask) for at in (torch.zeros(1, 16, 3), far))
        assert torch.equal(here, there) is not anchored


def test_gradient_terms_vanish_for_a_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    network = set_network(normal=1.0, eikonal=1.0)
    normals = torch.nn.functional.normalize(torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    tokens = positions = torch.zeros(2, 16, 16)
    for scale, eikonal in ((1.0, 0.0), (2.0, 1.0), (-1.0, 0.0)):
        monkeypatch.setattr(network, "distances", lambda *a, scale=scale: scale * a[-1].norm(dim=-1) / BAND)
        terms = network._gradient_terms(tokens, positions, 0.5 * normals, normals)
        assert terms["eikonal"].item() == pytest.approx(eikonal, abs=1e-5)
        assert terms["normal"].item() == pytest.approx(2.0 if scale < 0 else 0.0, abs=1e-5)


def test_waves() -> None:
    point = torch.tensor([[0.5, -0.25, 0.0]])
    found = waves(point)[0]
    assert found.shape == (39,)
    assert found[:3].tolist() == [0.5, -0.25, 0.0]
    assert float(found[3]) == pytest.approx(1.0)  # sin(pi / 2)
    assert float(found[3 + 6]) == pytest.approx(-(0.5**0.5))  # sin(-pi / 4)


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="side=3"):
        LatentGrid(side=3)
    with pytest.raises(ConfigError, match="resolution=64"):
        LatentSet(resolution=64)
    made = LatentSet(tokens=4, channels=2, width=8, resolution=33)
    state: State = torch.zeros(1, 4, 2)
    made.statistics = {"mean": torch.zeros(2), "deviation": torch.ones(2), "position": torch.ones(())}
    with pytest.raises(ConfigError, match="anchored; its state is of the other form"):
        made.decode(state)
