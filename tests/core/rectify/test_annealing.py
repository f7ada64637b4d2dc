"""Annealing keeps the source's law and moves from one training to the other."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow.rectify.annealing import SCHEDULES, Annealing, annealed


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.8, 1.0])
def test_covariance_of_the_source_stays(beta: float) -> None:
    count = 100_000
    generator = torch.Generator().manual_seed(0)
    x0, fresh = torch.randn(2, count, 3, generator=generator)
    mixed = annealed(x0, fresh, beta)
    assert isinstance(mixed, torch.Tensor)
    assert torch.allclose(torch.cov(mixed.mT), torch.eye(3), atol=4 * math.sqrt(2 / count))
    tie = (mixed * x0).mean(0)
    assert torch.allclose(tie, torch.full((3,), math.sqrt(1 - beta**2)), atol=4 * math.sqrt(2 / count))
    if beta in (0, 1):
        assert torch.equal(mixed, fresh if beta else x0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_one(schedule: str) -> None:
    annealing = Annealing(200, schedule)
    betas = [annealing.beta(step) for step in range(0, 1000, 10)]
    assert betas[0] == 1
    assert all(later <= earlier for earlier, later in itertools.pairwise(betas))
    middle = {"linear": 0.5, "cosine": 0.5, "exponential": math.exp(-0.5)}[schedule]
    quarter = {"linear": 0.75, "cosine": 0.5 + math.sqrt(0.5) / 2, "exponential": math.exp(-0.25)}[schedule]
    assert annealing.beta(100) == pytest.approx(middle)
    assert annealing.beta(50) == pytest.approx(quarter)
    ended = {"linear": 0.0, "cosine": 0.0, "exponential": math.exp(-5)}[schedule]
    assert annealing.beta(1000) == pytest.approx(ended)


def test_components_of_a_product_are_mixed_alike() -> None:
    x0 = {"a": torch.ones(2, 1), "b": torch.zeros(2, 3)}
    fresh = {"a": torch.zeros(2, 1), "b": torch.ones(2, 3)}
    mixed = annealed(x0, fresh, 0.6)
    assert isinstance(mixed, dict)
    assert torch.allclose(mixed["a"], torch.full((2, 1), 0.8))
    assert torch.allclose(mixed["b"], torch.full((2, 3), 0.6))


def test_refused() -> None:
    with pytest.raises(ConfigError, match="'sine' is unknown; allowed: linear, cosine, exponential"):
        Annealing(10, "sine")
    with pytest.raises(ConfigError, match="over 0 steps"):
        Annealing(0)
