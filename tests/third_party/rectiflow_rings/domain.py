"""Data, network and figures of the rings."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond, State, parts
from rectiflow.domain import Domain
from rectiflow.flow import Draw, Flow
from rectiflow.records import Metric, Reference
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product


def ring(radius: float) -> Tensor:
    """(4000, 2) points of the ring."""
    angle = 2 * torch.pi * torch.rand(4000, generator=torch.Generator().manual_seed(0))
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


class Perceptron(nn.Module):
    """Velocities of both components; hands back the self-condition as an input, and takes a second time if `until`."""

    def __init__(self, width: int, until: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3)
        )
        self.step = nn.Linear(1, 8) if until else None
        if self.step is not None:
            nn.init.zeros_(self.step.weight)
            nn.init.zeros_(self.step.bias)

    def forward(
        self,
        x: dict[str, Tensor],
        t: Tensor,
        side: Tensor,
        self_condition: dict[str, Tensor],
        until: Tensor | None = None,
    ) -> State:
        inputs = torch.cat([x["point"], x["height"], t[:, None], side[:, None].to(t), *parts(self_condition)], 1)
        if self.step is not None:
            inputs = inputs + self.step((t - t if until is None else until - t)[:, None])
        out = self.layers(inputs)
        return {"point": out[:, :2], "height": out[:, 2:]}


class Points:
    """Batches of ring points; the height is the sign of the first coordinate, which is also the condition."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Batch:
        points = self.points[indices]
        side = (points[:, 0] > 0).long()
        return Batch(x1={"point": points, "height": 2.0 * side[:, None] - 1}, cond={"side": side})


def noise_by_side(
    shape: Any, *, cond: Cond, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
) -> State:
    """Noise that is shifted to the side asked for."""
    noise = {name: torch.randn(s, generator=generator, device=device, dtype=dtype) for name, s in shape.items()}
    noise["point"] = noise["point"] + torch.stack([2 * cond["side"].to(noise["point"]) - 1, 0 * cond["side"]], 1)
    return noise


class Rings(Domain):
    """The rings for the core."""

    metrics = (Metric("radius_error", "radius error", "lower", primary=True),)  # type: ignore[assignment]

    @cached_property
    def points(self) -> Tensor:
        points: Tensor = self.create(self.config.data)
        return points

    def dataset(self, split: str) -> Points:
        return Points(self.points[::2] if split == "train" else self.points[1::2])

    def network(self, generator: torch.Generator) -> nn.Module:
        network: nn.Module = self.create(self.config.model)
        return network

    def flow(self, network: Any) -> Flow:
        space = Product(point=Euclidean(), height=Euclidean())
        return self.flow_of(network, space=space, source=noise_by_side, null={"side": 2}, self_conditioning=True)

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        return {"side": torch.arange(count) % 2}

    def sample_shape(self, count: int, cond: Cond) -> Any:
        return {"point": (count, 2), "height": (count, 1)}

    def save(self, x: Any, cond: Cond, folder: Path) -> list[Path]:
        path = folder / "points.csv"
        path.write_text("\n".join(f"{a:.6f},{b:.6f}" for a, b in x["point"].tolist()))
        return [path]

    def picture(self, x: Any, cond: Cond) -> Image.Image:
        canvas = torch.full((64, 64), 255, dtype=torch.uint8)
        rows = ((x["point"] / 6 + 0.5) * 63).round().long().clamp(0, 63)
        canvas[rows[:, 1], rows[:, 0]] = 0
        return Image.fromarray(canvas.numpy())

    def evaluate(self, x: Any, cond: Cond) -> dict[str, float]:
        return {"radius_error": float((x["point"].norm(dim=1) - self.config.data.radius).abs().mean())}

    def references(self, count: int, seed: int) -> list[Reference]:
        return [Reference("floor", "the ring itself", count, {"radius_error": 0.0})]

    def extra_loss(self, flow: Flow, prediction: Any, draw: Draw, batch: Batch) -> dict[str, Tensor]:
        estimate = flow.interpret(prediction, "data", draw.xt, draw.t)
        return {"height": 0.1 * (estimate["height"].abs() - 1).square().mean()}
