"""Reflow of a learned flow: eight modes on a ring, straightened until one step does what a hundred did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.diagnostics import straightness
from rectiflow.flow import Flow
from rectiflow.metrics import sliced_wasserstein
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.reflowing import reflow
from rectiflow.sampling import integrate
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions

STEPS = 4000


@pytest.fixture(autouse=True)
def single_precision(float64_default: None) -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def ring(count: int, seed: int) -> Tensor:
    """Eight modes at radius 3, of standard deviation 0.2."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (count,), generator=generator) * (math.pi / 4)
    return 3 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(count, 2, generator=generator)


class Ring:
    """The ring as training data."""

    replacement = True

    def __init__(self) -> None:
        self.points = ring(100_000, 1)

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(x1=self.points[indices])


class Perceptron(nn.Module):
    """3 -> 128 -> 128 -> 128 -> 2."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            widths = [3, 128, 128, 128]
            layers = [part for i in range(3) for part in (nn.Linear(widths[i], widths[i + 1]), nn.SiLU())]
            self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return out


@dataclass
class Matching:
    """The plain flow-matching loss."""

    network: nn.Module

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return Flow(network).loss(batch.x1, generator=generator), {}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        return {}


def measure(flow: Flow) -> tuple[float, float, float]:
    """Straightness, and sliced Wasserstein distance from the ring at 100 steps and at 1."""
    x0 = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(7))
    truth = ring(20_000, 8)
    apart = [
        sliced_wasserstein(integrate(flow, x0, steps=steps).x, truth, torch.Generator().manual_seed(9), directions=200)
        for steps in (100, 1)
    ]
    return float(straightness(flow, x0[:5000], steps=100)), apart[0], apart[1]


@pytest.mark.slow
def test_one_step_after_reflow_is_as_good_as_a_hundred_before(tmp_path: Path) -> None:
    options = TrainingOptions(steps=STEPS, batch=512, learning_rate=2e-3, warmup=0, clip=0.0, tensorboard=False)
    network = Perceptron()
    fitted = fit(Matching(network), Ring(), options)
    network.load_state_dict(fitted.ema)
    teacher = Flow(network.eval().requires_grad_(False))
    before = measure(teacher)
    pairs = generate_pairs(teacher, tmp_path, count=40_000, shape=(2,), steps=50, method="heun", seed=3, batch=4000)
    student = reflow(teacher, pairs, options=options)
    after = measure(student)
    print(f"straightness {before[0]:.4g} -> {after[0]:.4g}; SW2 at 100 steps {before[1]:.3f} -> {after[1]:.3f}")
    print(f"SW2 at 1 step {before[2]:.3f} -> {after[2]:.3f}")
    assert after[0] <= before[0] / 50
    assert before[2] > 1
    assert after[2] <= 0.20
    assert after[1] <= 0.13
