"""A network of a few hundred weights and data to train it on; run as a script it is the process that faults are tried on.

python tiny.py FOLDER '{"steps": 30, ...}' [SECONDS_PER_STEP [INDEX_OF_A_NAN]]
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import RectiflowError
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions

SAMPLES = 50


class TinyData:
    """Two-dimensional points; remembers which were read."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.points = torch.randn(samples, 2, generator=torch.Generator().manual_seed(1))
        self.read: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Batch:
        self.read.append(indices)
        return Batch(self.points[indices])


class TinyTask:
    """Flow matching with dropout active, so that a resume must bring the global generator back too."""

    def __init__(self, pause: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(2)
        self.network = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.2), nn.SiLU(), nn.Linear(16, 2))
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.pause = pause
        self.previews: list[int] = []

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(self.pause)
        assert isinstance(batch.x1, Tensor)
        noise = torch.randn(batch.x1.shape, generator=generator, device=batch.x1.device)
        t = torch.rand(len(noise), 1, generator=generator, device=batch.x1.device)
        loss = (network(t * batch.x1 + (1 - t) * noise) - (batch.x1 - noise)).square().mean()
        return loss, {"velocity": loss.detach()}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        self.previews.append(step)
        return {"weight": float(network[0].weight.sum())}


def small_options(**changes: Any) -> TrainingOptions:
    settings: dict[str, Any] = {
        "steps": 12, "batch": 8, "warmup": 3, "checkpoint_every": 5, "log_every": 1, "accelerator": "cpu", "tensorboard": False
    }  # fmt: skip
    return TrainingOptions(**(settings | changes))


def main(folder: str, settings: str, pause: str = "0", poisoned: str = "-1") -> int:
    data = TinyData()
    if int(poisoned) >= 0:
        data.points[int(poisoned)] = float("nan")
    try:
        fitted = fit(TinyTask(float(pause)), data, small_options(**json.loads(settings)), folder=Path(folder))
    except RectiflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    weights = b"".join(value.numpy().tobytes() for value in fitted.network.state_dict().values())
    average = b"".join(value.numpy().tobytes() for value in fitted.ema.values())
    (Path(folder) / f"rank-{fitted.rank}").write_text(hashlib.sha256(weights + average).hexdigest())
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(*sys.argv[1:]))
