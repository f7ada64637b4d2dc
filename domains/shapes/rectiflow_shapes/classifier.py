"""The small classifier of point clouds that class accuracy is judged by: trained here, on the spot, always the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import DataError
from rectiflow.nn.layers import linear
from rectiflow_shapes.cached_tensors import cached_tensors
from rectiflow_shapes.shape_data import ShapeData

POINTS = 256
"""Points of a cloud that are looked at."""

_VERSION = 2
_WIDTH = 128
_STEPS = 300
_BATCH = 32
_JITTER = 0.01


class PointClassifier(nn.Module):
    """Kinds of clouds by a shared layer on every point, the maximum over points, and two layers (PointNet, arXiv 1612.00593)."""

    def __init__(self, kinds: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(3, _WIDTH // 2, generator=generator)
        self.second = linear(_WIDTH // 2, _WIDTH, generator=generator)
        self.third = linear(_WIDTH, _WIDTH, generator=generator)
        self.head = linear(_WIDTH, kinds, generator=generator)

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits (B, kinds) of clouds (B, P, 3)."""
        pooled = self.second(F.gelu(self.first(points))).max(1).values  # amax has a slower backward pass
        logits: Tensor = self.head(F.gelu(self.third(F.gelu(pooled))))
        return logits

    @torch.no_grad()
    def predict(self, clouds: Tensor) -> Tensor:
        """Return the most likely kind (B,) of clouds (B, P, 3), by their first 256 points.

        Raises:
            DataError: fewer points.
        """
        if clouds.ndim != 3 or clouds.shape[1] < POINTS or clouds.shape[2] != 3:
            raise DataError(f"clouds have shape {tuple(clouds.shape)}; they must be (B, P, 3) with P >= {POINTS}")
        return torch.cat([self(part[:, :POINTS].float()).argmax(1) for part in torch.split(clouds, 64)])


def trained_classifier(data: ShapeData, seed: int = 0) -> PointClassifier:
    """The classifier of these shapes' kinds, in eval mode: from the cache if it was trained before, else trained in seconds.

    Raises:
        StorageError: the cache cannot be written.
    """
    generator = torch.Generator().manual_seed(seed)
    network = PointClassifier(len(data.kinds), generator)
    state = cached_tensors(f"classifier-{_VERSION}-{data.key}-{seed}", lambda: _train(network, data, generator))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@torch.enable_grad()
def _train(network: PointClassifier, data: ShapeData, generator: torch.Generator) -> dict[str, Tensor]:
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        rows = torch.randint(len(data), (_BATCH,), generator=generator)
        clouds = data.array("cloud", rows)
        chosen = torch.randint(clouds.shape[1], (POINTS // 2,), generator=generator)
        points = clouds[:, chosen]
        points = points + _JITTER * torch.randn(points.shape, generator=generator)
        loss = F.cross_entropy(network(points), data.labels[rows])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
