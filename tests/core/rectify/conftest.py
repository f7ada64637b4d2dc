"""A Gaussian flow, its average velocity and its rectification in closed form, for the methods to be held against."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, JointGaussianFlow
from rectiflow.batch import Batch
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant


class Oracle:
    """The flow from N(0, I) to N(mean, spread^2), which carries x0 to mean + spread x0."""

    def __init__(self) -> None:
        self.mean = torch.tensor([1.0, -2.0, 0.5])
        self.spread = torch.tensor([0.4, 1.3, 2.0])

    def gaussian(self, path: Interpolant | None = None) -> GaussianFlow:
        """The flow of independent pairs."""
        return GaussianFlow(self.mean, torch.diag(self.spread.square()), path)

    def rectified(self, path: Interpolant | None = None, **traits: Any) -> Flow:
        """The flow of the pairs that the first one makes."""
        c = torch.diag(self.spread)
        joint = JointGaussianFlow((torch.zeros(3), self.mean), (torch.eye(3), c @ c), c, path)
        return Flow(joint.velocity, interpolant=joint.interpolant, independent=False, **traits)

    def average_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Average velocity of the first flow from t to 1, written so that it holds at t = 1 too."""
        t = t[:, None]
        q = (t.square() * self.spread.square() + (1 - t).square()).sqrt()
        growth = (self.spread.square() * (1 + t) - (1 - t)) / (q * (self.spread + q))
        return self.mean + growth * (x - t * self.mean)

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Sources."""
        return torch.randn(count, 3, generator=self.seeded(seed))

    def pairs(self, count: int, seed: int = 0) -> Batch:
        """The first flow's pairs."""
        x0 = self.noise(count, seed)
        return Batch(x1=self.mean + self.spread * x0, x0=x0)

    def data(self, count: int, seed: int = 5) -> Batch:
        """Data without sources."""
        return Batch(x1=self.gaussian().sample(count, self.seeded(seed)))

    def seeded(self, seed: int = 0) -> torch.Generator:
        """A generator."""
        return torch.Generator().manual_seed(seed)


@pytest.fixture
def oracle(float64_default: None) -> Oracle:
    return Oracle()
