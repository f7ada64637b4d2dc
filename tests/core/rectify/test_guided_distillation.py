"""SlimFlow's distillation: zero at the Gaussian rectified flow, and the second look written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.rectify.guided_distillation import GuidedDistillation
from rectiflow.rectify.method import Support


def test_zero_at_the_rectified_flow(oracle: Any) -> None:
    flow, batch = oracle.rectified(), oracle.pairs(100)
    loss, terms = GuidedDistillation().loss(flow, batch, oracle.seeded(), support=Support(flow))
    assert float(loss) < 1e-20
    assert set(terms) == {"guided", "pairs"}
    wrong, _ = GuidedDistillation().loss(
        Flow(lambda x, t: torch.zeros_like(x)), batch, oracle.seeded(), support=Support(flow)
    )
    assert float(wrong) > 1


def test_second_look_is_two_euler_steps(oracle: Any) -> None:
    """Student v = 1, teacher v = x: from x0 to x0 + t, then by (1 - t)(x0 + t), so the target is t + (1 - t)(x0 + t)."""
    student, teacher = Flow(lambda x, t: torch.ones_like(x)), Flow(lambda x, t: x)
    batch = oracle.pairs(40)
    method = GuidedDistillation(low=0.3, high=0.3)
    _, terms = method.loss(student, batch, oracle.seeded(), support=Support(teacher))
    target = 0.3 + 0.7 * (batch.x0 + 0.3)
    assert float(terms["guided"]) == pytest.approx(float((1 - target).square().mean()))
    assert float(terms["pairs"]) == pytest.approx(float((1 + batch.x0 - batch.x1).square().mean()))


def test_times_of_the_second_look_and_no_gradient_of_it(oracle: Any) -> None:
    seen: list[Tensor] = []

    def looks(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        assert not x.requires_grad
        return x

    scale = torch.ones((), requires_grad=True)
    batch = oracle.pairs(2000)
    method = GuidedDistillation()
    _, _ = method.loss(Flow(lambda x, t: scale * x), batch, oracle.seeded(), support=Support(Flow(looks)))
    assert 0.2 <= float(seen[0].min()) < 0.21
    assert 0.79 < float(seen[0].max()) <= 0.8


def test_any_path_of_the_teacher(oracle: Any) -> None:
    """Euler steps of the ordinary differential equation know no path: only the pairs term is zero on a curved one."""
    flow = oracle.rectified(Trigonometric())
    _, terms = GuidedDistillation().loss(flow, oracle.pairs(50), oracle.seeded(), support=Support(flow))
    assert float(terms["guided"]) > 1e-3


def test_perceptual_takes_the_first_terms_place(oracle: Any) -> None:
    batch = oracle.pairs(30)
    method = GuidedDistillation(perceptual=lambda made, x1: (made - x1).abs().sum(1))  # type: ignore[operator]
    _, terms = method.loss(
        Flow(lambda x, t: torch.ones_like(x)), batch, oracle.seeded(), support=Support(oracle.rectified())
    )
    assert float(terms["pairs"]) == pytest.approx(float((batch.x0 + 1 - batch.x1).abs().sum(1).mean()))


def test_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match=r"between 0\.9 and 0\.5"):
        GuidedDistillation(low=0.9, high=0.5)
    with pytest.raises(ConfigError, match="asks a teacher"):
        GuidedDistillation().loss(oracle.rectified(), oracle.pairs(4), oracle.seeded())
    with pytest.raises(ConfigError, match="trains on pairs"):
        GuidedDistillation().loss(
            oracle.rectified(), oracle.data(4), oracle.seeded(), support=Support(oracle.rectified())
        )
