"""How fast autoencoders of sets learn unions of random primitives, whose distances are known: anchored and plain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import trimesh
from torch import Tensor

from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow_shapes.autoencoding import AutoencoderTask, ShapeArrays
from rectiflow_shapes.extraction import grid_points
from rectiflow_shapes.set_autoencoder import CrossAttention, SetAutoencoder
from rectiflow_shapes.shape_data import ShapeData

BAND = 0.15
Distance = Callable[[Tensor], Tensor]


def primitive(generator: torch.Generator) -> Distance:
    """A box, a ball or a ring, somewhere near the middle."""
    kind = int(torch.randint(3, (), generator=generator))
    centre = 0.8 * torch.rand(3, generator=generator) - 0.4
    sizes = 0.15 + 0.3 * torch.rand(3, generator=generator)

    def box(points: Tensor) -> Tensor:
        beyond = (points - centre).abs() - sizes
        return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)

    def ball(points: Tensor) -> Tensor:
        return (points - centre).norm(dim=-1) - sizes[0]

    def ring(points: Tensor) -> Tensor:
        x, y, z = (points - centre).unbind(-1)
        return torch.hypot(torch.hypot(x, y) - 0.35, z) - 0.08 - sizes[0] / 4

    return (box, ball, ring)[kind]


def unions(count: int, seed: int) -> ShapeData:
    """Shapes of two or three primitives; their surface is found by going down the distance."""
    generator = torch.Generator().manual_seed(seed)
    arrays: dict[str, list[Tensor]] = {name: [] for name in ("cloud", "normals", "near", "distance", "grid")}
    for _ in range(count):
        parts = [primitive(generator) for _ in range(2 + int(torch.randint(2, (), generator=generator)))]

        def distance(points: Tensor, parts: list[Distance] = parts) -> Tensor:
            return torch.stack([part(points) for part in parts]).amin(0)

        cloud, normals = surface_points(distance, generator)
        near = cloud + 0.05 * torch.randn(cloud.shape, generator=generator)
        grid = (distance(grid_points(32)) / BAND).clamp(-1, 1)
        for name, value in zip(arrays, (cloud, normals, near, distance(near), grid), strict=True):
            arrays[name].append(value)
    stacked = {name: torch.stack(values).half() for name, values in arrays.items()}
    labels, captions = torch.zeros(count, dtype=torch.long), ("a union",) * count
    return ShapeData(
        f"unions-{seed}", ("union",), labels, (), torch.zeros(count, 0), captions, stacked, lambda _: trimesh.Trimesh()
    )


def surface_points(distance: Distance, generator: torch.Generator, count: int = 1024) -> tuple[Tensor, Tensor]:
    points = 1.8 * torch.rand(24 * count, 3, generator=generator) - 0.9
    points = points[distance(points).abs() < 0.1]
    for _ in range(4):
        values, slopes = slope(distance, points)
        points = points - values[:, None] * slopes
    values, slopes = slope(distance, points)
    kept = (values.abs() < 1e-4).nonzero()[:, 0]
    chosen = kept[torch.randint(len(kept), (count,), generator=generator)]
    return points[chosen], slopes[chosen]


def slope(distance: Distance, points: Tensor) -> tuple[Tensor, Tensor]:
    points = points.detach().requires_grad_()
    values = distance(points)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), torch.nn.functional.normalize(slopes, dim=-1)


def held_out_iou(network: SetAutoencoder, data: ShapeData) -> float:
    nodes = grid_points(32).reshape(1, -1, 3)
    found = []
    with torch.no_grad():
        for row in range(len(data)):
            codes, positions = network.encode(*(data.array(name, slice(row, row + 1)) for name in ("cloud", "normals")))
            inside = network.distances(network.tokens(codes, positions), positions, nodes)[0] < 0
            truth = data.array("grid", slice(row, row + 1)).flatten() < 0
            found.append(float((inside & truth).sum() / (inside | truth).sum()))
    return sum(found) / len(found)


@pytest.mark.slow
def test_anchored_sets_learn_in_a_minute_what_plain_ones_do_not() -> None:
    train, held = unions(480, 0), unions(32, 1)
    found = {}
    for anchored in (True, False):
        network = SetAutoencoder(64, 16, 128, 2, anchored, 1e-4, 0.05, 0.01, generator=torch.Generator().manual_seed(0))
        options = TrainingOptions(steps=300, batch=16, ema=0.98, warmup=30, precision="bf16-mixed", tensorboard=False)
        fitted = fit(AutoencoderTask(network), ShapeArrays(train, tuple(train.arrays)), options)
        network.load_state_dict(fitted.ema)
        found[anchored] = held_out_iou(network.eval(), held)
    assert found[True] >= 0.5
    assert found[False] < found[True] - 0.2


def test_keys_near_a_query_speak_affinely_of_its_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = CrossAttention(8, affine=True, generator=generator)
    queries, keys = torch.randn(1, 2, 8, generator=generator), torch.randn(1, 5, 8, generator=generator)
    at, of = (2 * torch.rand(1, count, 3, generator=generator) - 1 for count in (2, 5))
    attention.output.weight.data = torch.eye(8)
    attention.mlp.output.weight.data.zero_()
    found = attention(queries, keys, at, of)[0] - queries[0]

    def normal(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)

    query, key, value = (
        attention.query(normal(queries))[0],
        attention.key(normal(keys))[0],
        attention.value(normal(keys))[0],
    )
    for row in range(2):
        for head, falloff in enumerate((4.0, 16.0, 32.0, 64.0)):
            part = slice(2 * head, 2 * head + 2)
            offsets = at[0, row] - of[0]
            logits = key[:, part] @ query[row, part] / 2**0.5 - falloff * offsets.square().sum(-1)
            constant, *slopes = value[:, 8 * head : 8 * head + 8].chunk(4, -1)
            said = constant + sum(slope * offsets[:, [axis]] / 0.25 for axis, slope in enumerate(slopes))
            expected = logits.softmax(0) @ said
            torch.testing.assert_close(found[row, part], expected, rtol=1e-4, atol=1e-4)
