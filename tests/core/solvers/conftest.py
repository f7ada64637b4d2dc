"""Problems with known answers that every solver is judged on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Trigonometric
from rectiflow.sampling import integrate


@dataclass
class Problem:
    """A flow, a start and its true end on [low, high]; errors are root mean squares of the distance."""

    flow: Flow
    start: Tensor
    end: Tensor
    low: float = 0.0
    high: float = 1.0

    def solve(self, method: str, steps: int) -> Tensor:
        grid = torch.linspace(self.low, self.high, steps + 1)
        end: Tensor = integrate(self.flow, self.start, times=grid, method=method).x
        return end

    def error(self, method: str, steps: int) -> float:
        return float((self.solve(method, steps) - self.end).square().sum(1).mean().sqrt())

    def order(self, method: str, steps: int) -> float:
        return math.log2(self.error(method, steps) / self.error(method, 2 * steps))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def gaussian() -> Callable[..., Problem]:
    """Gaussian target with its closed-form map, from `low` to `high`; high < low runs towards the source."""

    def build(path: Interpolant | None = None, low: float = 0.0, high: float = 1.0) -> Problem:
        rotation = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
        covariance = rotation @ torch.diag(torch.tensor([0.25, 4.0])) @ rotation.mT
        target = GaussianFlow(torch.tensor([1.0, -2.0]), covariance, path or Trigonometric())
        start = target.flow_map(normal(64, 2), torch.zeros(64), torch.full((64,), low))
        return Problem(
            target.flow(), start, target.flow_map(start, torch.full((64,), low), torch.full((64,), high)), low, high
        )

    return build


@pytest.fixture(scope="session")
def mixture() -> Problem:
    """Three-component mixture on the linear path; the truth is RK4 with 640 steps, right to 1e-10."""
    options = {"dtype": torch.float64}
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], **options)
    flow = MixtureFlow([0.5, 0.3, 0.2], means, 0.25 * torch.eye(2, **options).expand(3, 2, 2)).flow()
    start = normal(32, 2).to(torch.float64)
    return Problem(flow, start, integrate(flow, start, steps=640, method="rk4").x)
