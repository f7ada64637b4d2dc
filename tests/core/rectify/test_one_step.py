"""One-step distillation: zero at the pairs' map, whatever the path, and only at the times of its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Linear, Trigonometric
from rectiflow.rectify.distances import PseudoHuber
from rectiflow.rectify.one_step import OneStep
from rectiflow.sampling import integrate


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
@pytest.mark.parametrize("steps", [1, 4])
def test_zero_at_the_rectified_flow(oracle: Any, path: Any, steps: int) -> None:
    method = OneStep(steps=steps, distance=PseudoHuber())
    loss, _ = method.loss(oracle.rectified(path), oracle.pairs(100), oracle.seeded())
    assert float(loss) < 1e-20
    before, _ = method.loss(oracle.gaussian(path).flow(), oracle.pairs(100), oracle.seeded())
    assert float(before) > 1e-2


def test_only_the_first_velocity_counts(oracle: Any) -> None:
    """A flow that is right at t = 0 and nowhere else has no loss, and its sampler takes that step."""
    rectified = oracle.rectified()

    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t[:, None] == 0, rectified.velocity(x, t), torch.tensor(7.0))

    method = OneStep()
    loss, _ = method.loss(Flow(model), oracle.pairs(50), oracle.seeded())
    assert float(loss) < 1e-20
    drawn = integrate(method.student(Flow(model)), oracle.noise(50), steps=1, method=method.sampler)
    assert torch.allclose(drawn.x, oracle.pairs(50).x1)
    four, _ = OneStep(steps=4).loss(Flow(model), oracle.pairs(50), oracle.seeded())
    assert float(four) > 1


def test_times_of_few_steps(oracle: Any) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    OneStep(steps=4).loss(Flow(model), oracle.pairs(1000), oracle.seeded())
    assert seen[0].unique().tolist() == [0.0, 0.25, 0.5, 0.75]


def test_value_and_perceptual_term(oracle: Any) -> None:
    batch = oracle.pairs(30)
    flow = Flow(lambda x, t: torch.ones_like(x))
    method = OneStep(perceptual=lambda estimate, x1: (estimate - x1).abs().amax(1))  # type: ignore[union-attr, operator]
    loss, terms = method.loss(flow, batch, oracle.seeded())
    off = batch.x0 + 1 - batch.x1
    assert float(terms["distance"]) == pytest.approx(float(off.square().mean()))
    assert float(terms["perceptual"]) == pytest.approx(float(off.abs().amax(1).mean()))
    assert float(loss) == pytest.approx(float(terms["distance"] + terms["perceptual"]))


def test_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="into 0 steps"):
        OneStep(steps=0)
    with pytest.raises(ConfigError, match="trains on pairs"):
        OneStep().loss(oracle.rectified(), oracle.data(4), oracle.seeded())
