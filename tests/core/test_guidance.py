"""Classifier-free guidance: the formula, its fixed points, its interval and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.solvers.field import VelocityField

LABELS = {"label": torch.tensor([1, 2, 3])}


class Recorder:
    """A conditional model that notes how it was called; label 9 means no condition."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        assert t.shape == label.shape == x.shape[:1]
        self.batches.append(len(x))
        self.times.append(float(t[0]))
        return torch.sin(x * label[:, None].to(x.dtype)) + t[:, None]


def setting() -> tuple[Recorder, Flow, Tensor]:
    model = Recorder()
    return model, Flow(model, null={"label": 9}), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))


def test_guided_velocity_equals_two_separate_calls() -> None:
    _, flow, x = setting()
    t = torch.full((3,), 0.3)
    conditional = flow.velocity(x, t, **LABELS)
    unconditional = flow.velocity(x, t, label=torch.full((3,), 9))
    for w in (-1.0, 0.5, 2.0, 7.5):
        guided = VelocityField(flow, x, LABELS, Guidance(w))(x, 0.3)
        torch.testing.assert_close(guided, unconditional + w * (conditional - unconditional))


def test_scale_one_is_the_conditional_model_bit_for_bit_at_half_the_cost() -> None:
    model, flow, x = setting()
    plain = integrate(flow, x, steps=5, cond=LABELS)
    one = integrate(flow, x, steps=5, cond=LABELS, guidance=1.0)
    assert torch.equal(plain.x, one.x)
    assert one.nfe == 5
    assert model.batches == [3] * 10


def test_scale_zero_is_the_unconditional_model_at_half_the_cost() -> None:
    model, flow, x = setting()
    zero = integrate(flow, x, steps=5, cond=LABELS, guidance=0)
    unconditional = integrate(flow, x, steps=5, cond={"label": torch.full((3,), 9)})
    assert torch.equal(zero.x, unconditional.x)
    assert zero.nfe == 5
    assert set(model.batches) == {3}


def test_a_guided_evaluation_is_one_batched_call_and_counts_twice() -> None:
    model, flow, x = setting()
    solution = integrate(flow, x, steps=4, method="heun", cond=LABELS, guidance=3)
    assert model.batches == [6] * 8
    assert solution.nfe == 16


def test_outside_its_interval_guidance_is_the_conditional_model() -> None:
    """Ten Euler steps at t = 0, 0.1, ..., 0.9; the interval, ends included, holds 0.3 to 0.6: four of them."""
    model, flow, x = setting()
    times = torch.tensor([i / 10 for i in range(11)])
    guidance = Guidance(2.0, interval=(0.3, 0.6))
    solution = integrate(flow, x, times=times, cond=LABELS, guidance=guidance)
    assert solution.nfe == 14
    assert model.batches == [3, 3, 3, 6, 6, 6, 6, 3, 3, 3]
    y = x
    for i in range(10):
        t = torch.full((3,), i / 10)
        v = flow.velocity(y, t, **LABELS)
        if 3 <= i <= 6:
            u = flow.velocity(y, t, label=torch.full((3,), 9))
            v = u + 2.0 * (v - u)
        y = y + 0.1 * v
    torch.testing.assert_close(solution.x, y)


def test_only_conditions_with_a_null_value_are_replaced() -> None:
    def model(x: Tensor, t: Tensor, label: Tensor, scale: Tensor) -> Tensor:
        return scale[:, None] * label[:, None].to(x.dtype) * torch.ones_like(x)

    cond = {"label": torch.tensor([1, 2]), "scale": torch.tensor([10.0, 100.0])}
    field = VelocityField(Flow(model, null={"label": 0}), torch.zeros(2, 1), cond, Guidance(3.0))
    assert field(torch.zeros(2, 1), 0.0).flatten().tolist() == [30.0, 600.0]


def test_guidance_needs_conditions_and_a_null_value() -> None:
    model, flow, x = setting()
    with pytest.raises(ConfigError, match=r"2\.0 needs conditions"):
        integrate(flow, x, steps=2, guidance=2)
    with pytest.raises(ConfigError, match=r"2\.0 needs a null condition"):
        integrate(Flow(model), x, steps=2, cond=LABELS, guidance=2)
    with pytest.raises(ConfigError, match=r"'label' has 2 rows; the state has 3"):
        integrate(flow, x, steps=2, cond={"label": torch.tensor([1, 2])})


@pytest.mark.parametrize("interval", [(0.6, 0.3), (-0.1, 0.5), (0.5, 1.5)])
def test_a_bad_interval_is_named(interval: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=str(interval[0])):
        Guidance(2.0, interval)


def test_self_conditioned_guidance_shows_both_halves_the_conditional_estimate() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, label: Tensor, self_condition: Tensor) -> Tensor:
        seen.append(self_condition)
        return label[:, None].to(x.dtype) * torch.ones_like(x)

    flow = Flow(model, null={"label": 0}, self_conditioning=True)
    x = torch.zeros(2, 1)
    integrate(flow, x, steps=2, cond={"label": torch.tensor([1, 5])}, guidance=2.0)
    assert not bool(seen[0].any())
    # at t = 0 the data estimate is x + velocity, that of the conditional half
    assert seen[1].flatten().tolist() == [1.0, 5.0, 1.0, 5.0]
