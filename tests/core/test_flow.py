"""Flow: training draws, the loss in closed form on a Gaussian, masks, sources, self-conditioning and refusals."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate as quadrature
from torch import Tensor

from rectiflow.couplings import MinibatchOT
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric
from rectiflow.predictions import Prediction
from rectiflow.times import LogitNormal, UShaped

MEAN, STD = 1.5, 0.7
NAMES: tuple[Prediction, ...] = ("velocity", "data", "noise", "score")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_data(count: int, seed: int = 0) -> Tensor:
    return MEAN + STD * torch.randn(count, 1, generator=seeded(1000 + seed))  # never the seed that draws x0


def zero(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
    return torch.zeros_like(x)


def conditional(path: Interpolant, t: float) -> tuple[float, float, float]:
    """E[x_t'|x_t] = mean' + gain (x - mean) and Var(x_t'|x_t), by regressing one Gaussian on another; and Var(x_t)."""
    a, s, da, ds = (float(value) for value in path.coefficients(torch.tensor(t)))
    variance = a * a * STD**2 + s * s
    covariance = a * da * STD**2 + s * ds
    return covariance / variance, da * da * STD**2 + ds * ds - covariance**2 / variance, variance


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_expected_loss_is_irreducible_plus_model_error(path: Interpolant) -> None:
    """Model w x + b against the closed-form velocity, integrated over uniform t by quadrature."""
    w, b = 0.4, -0.3

    def integrand(t: float) -> float:
        a, _, da, _ = (float(value) for value in path.coefficients(torch.tensor(t)))
        gain, noise, variance = conditional(path, t)
        mean_error = (w * a * MEAN + b) - da * MEAN
        return noise + mean_error**2 + (w - gain) ** 2 * variance

    expected = quadrature.quad(integrand, 0, 1)[0]
    flow = Flow(lambda x, t: w * x + b, interpolant=path)
    losses = torch.stack([flow.loss(gaussian_data(20_000, i), generator=seeded(100 + i)) for i in range(20)])
    standard_error = float(losses.std()) / math.sqrt(len(losses))
    assert standard_error < 0.01 * expected
    assert abs(float(losses.mean()) - expected) < 4 * standard_error


def test_gradient_vanishes_at_the_true_velocity_and_points_to_it() -> None:
    def model_scaled_by(theta: Tensor) -> Any:
        def model(x: Tensor, t: Tensor) -> Tensor:
            a, s = t[:, None], 1 - t[:, None]
            gain = (a * STD**2 - s) / (a * a * STD**2 + s * s)
            return theta * (MEAN + gain * (x - a * MEAN))

        return model

    slopes = {}
    for value in (0.5, 1.0, 1.5):
        theta = torch.tensor(value, requires_grad=True)
        Flow(model_scaled_by(theta)).loss(gaussian_data(200_000), generator=seeded()).backward()
        assert theta.grad is not None
        slopes[value] = float(theta.grad)
    # d/dtheta E|theta v - target|^2 = 2 (theta - 1) E|v|^2 with E|v|^2 = E|target|^2 - irreducible
    irreducible = quadrature.quad(lambda t: conditional(Linear(), t)[1], 0, 1)[0]
    curvature = 2 * (MEAN**2 + STD**2 + 1 - irreducible)
    assert abs(slopes[1.0]) < 0.02 * curvature
    assert slopes[0.5] == pytest.approx(-0.5 * curvature, rel=0.03)
    assert slopes[1.5] == pytest.approx(0.5 * curvature, rel=0.03)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
@pytest.mark.parametrize("predicts", NAMES)
def test_a_draw_lies_on_the_path_with_the_right_target(path: Interpolant, predicts: Prediction) -> None:
    x1 = torch.randn(50, 2, 3, generator=seeded(1))
    draw = Flow(zero, interpolant=path, predicts=predicts).draw(x1, times=LogitNormal(), generator=seeded())
    a, s, da, ds = (value[:, None, None] for value in path.coefficients(draw.t))
    torch.testing.assert_close(draw.xt, a * x1 + s * draw.x0)
    expected = {"velocity": da * x1 + ds * draw.x0, "data": x1, "noise": draw.x0, "score": -draw.x0 / s}[predicts]
    torch.testing.assert_close(draw.target, expected, rtol=1e-9, atol=1e-9)
    assert draw.t.shape == (50,)
    assert float(draw.t.std()) > 0.1


def test_source_is_standard_normal_and_times_follow_the_law() -> None:
    draw = Flow(zero).draw(torch.zeros(20_000, 2), times=UShaped(), generator=seeded(4))
    assert isinstance(draw.x0, Tensor)
    n = draw.x0.numel()
    assert abs(float(draw.x0.mean())) < 4 / math.sqrt(n)
    assert abs(float(draw.x0.var()) - 1) < 4 * math.sqrt(2 / n)
    assert float((draw.t - 0.5).square().mean()) == pytest.approx(0.115671, abs=4 * 0.09 / math.sqrt(20_000))
    correlation = torch.corrcoef(torch.stack([draw.x0[:, 0], draw.t]))[0, 1]
    assert abs(float(correlation)) < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
@pytest.mark.parametrize("predicts", ["data", "noise", "score"])
def test_velocity_weighted_losses_of_equivalent_models_agree(path: Interpolant, predicts: Prediction) -> None:
    """One velocity field, put as another prediction by the elimination of x0 or x1 by hand."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x + 0.2

    def same_as(x: Tensor, t: Tensor) -> Tensor:
        a, s, da, ds = (value[:, None] for value in path.coefficients(t))
        v = velocity(x, t)
        data = (v - ds / s * x) / (da - ds * a / s)
        noise = (v - da / a * x) / (ds - da * s / a)
        return {"data": data, "noise": noise, "score": -noise / s}[predicts]

    x1, law = gaussian_data(500), LogitNormal()
    reference = Flow(velocity, interpolant=path).loss(x1, times=law, generator=seeded())
    other = Flow(same_as, interpolant=path, predicts=predicts)
    torch.testing.assert_close(other.loss(x1, times=law, weight="velocity", generator=seeded()), reference)
    assert not torch.isclose(other.loss(x1, times=law, generator=seeded()), reference, rtol=1e-2)


@pytest.mark.parametrize("predicts", NAMES)
def test_the_four_readings_of_one_model_agree(predicts: Prediction) -> None:
    """x = a data + s noise, velocity = a' data + s' noise, score = -noise / s, whatever the model predicts."""
    flow = Flow(lambda x, t: torch.sin(x) + t[:, None], interpolant=Trigonometric(), predicts=predicts)
    x, t = torch.randn(9, 2, generator=seeded()), torch.linspace(0.1, 0.9, 9)
    a, s, da, ds = (value[:, None] for value in Trigonometric().coefficients(t))
    data, noise = flow.data(x, t), flow.noise(x, t)
    torch.testing.assert_close(a * data + s * noise, x)
    torch.testing.assert_close(da * data + ds * noise, flow.velocity(x, t))
    torch.testing.assert_close(flow.score(x, t), -noise / s)
    direct = {"velocity": flow.velocity, "data": flow.data, "noise": flow.noise, "score": flow.score}[predicts]
    assert torch.equal(direct(x, t), torch.sin(x) + t[:, None])


@pytest.mark.parametrize("content", [7.0, 1e6, math.nan, math.inf])
def test_padding_changes_neither_loss_nor_gradient(content: float) -> None:
    """A token-wise model: what stands in the padding must not matter, even when it is not a number."""
    x1 = torch.randn(3, 5, 2, generator=seeded(1))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    results = []
    for padding in (0.0, content):
        filled = torch.where(mask[..., None], x1, torch.tensor(padding))
        w = torch.tensor(0.5, requires_grad=True)
        # the offset meets the target only, so that a NaN reaches the gradient solely through the loss
        loss = Flow(lambda x, t, w=w: w * torch.ones_like(x)).loss(filled, mask=mask, generator=seeded())
        loss.backward()
        results.append((loss.detach(), w.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("content", [50.0, math.nan])
def test_padding_does_not_decide_the_coupling(content: float) -> None:
    x1 = torch.randn(16, 4, 2, generator=seeded(1))
    mask = torch.arange(4)[None] < (torch.arange(16)[:, None] % 4 + 1)
    filled = torch.where(mask[..., None], x1, content * torch.arange(16.0)[:, None, None])
    clear = Flow(zero).draw(
        torch.where(mask[..., None], x1, 0.0), mask=mask, coupling=MinibatchOT(), generator=seeded()
    )
    draw = Flow(zero).draw(filled, mask=mask, coupling=MinibatchOT(), generator=seeded())
    assert torch.equal(draw.index, clear.index)
    assert draw.index.tolist() != list(range(16))
    torch.testing.assert_close(draw.x1, filled[draw.index], equal_nan=True)


def test_masked_loss_is_the_mean_over_valid_entries_then_over_samples() -> None:
    x1 = torch.randn(2, 3, 2, generator=seeded(1))
    mask = torch.tensor([[True, False, False], [True, True, False]])
    flow = Flow(zero)
    draw = flow.draw(x1, mask=mask, generator=seeded())
    assert isinstance(draw.target, Tensor)
    by_hand = 0.0
    for sample, valid in ((0, 1), (1, 2)):
        entries = [float(v) ** 2 for token in range(valid) for v in draw.target[sample, token]]
        by_hand += sum(entries) / len(entries) / 2
    assert float(flow.loss(x1, mask=mask, generator=seeded())) == pytest.approx(by_hand, rel=1e-12)
    first = torch.tensor([True, False])  # whole samples may be left out: they count as zero
    assert float(flow.loss(x1, mask=first, generator=seeded())) == pytest.approx(
        float(draw.target[0].square().mean()) / 2
    )
    alone = flow.draw(x1[..., :1], generator=seeded())
    one_entry = torch.tensor([[True, False, False], [True, False, False]])
    expected = float(alone.target[:, 0].square().mean())
    assert float(flow.loss(x1[..., :1], mask=one_entry, generator=seeded())) == pytest.approx(expected)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert float(flow.loss(x1, mask=nothing, generator=seeded())) == 0.0


def test_mask_and_conditions_travel_with_the_data() -> None:
    x1 = torch.arange(16.0)[:, None].expand(16, 3).clone()
    mask = torch.arange(3)[None] < (torch.arange(16)[:, None] % 3 + 1)
    cond = {"value": torch.arange(16)}
    draw = Flow(zero).draw(x1, cond, mask=mask, coupling=MinibatchOT(0.0), generator=seeded())
    assert isinstance(draw.x1, Tensor)
    assert draw.index.tolist() != list(range(16))
    assert torch.equal(draw.x1, x1[draw.index])
    assert torch.equal(draw.cond["value"].double(), draw.x1[:, 0])
    assert draw.mask is not None
    assert torch.equal(draw.mask.sum(1), draw.cond["value"] % 3 + 1)


def test_stored_sources_are_used_as_given() -> None:
    x1, x0 = gaussian_data(64), torch.randn(64, 1, generator=seeded(9))
    draw = Flow(zero).draw(x1, x0=x0, coupling=MinibatchOT(), generator=seeded())
    assert draw.x0 is x0
    assert draw.x1 is x1
    assert draw.index.tolist() == list(range(64))
    torch.testing.assert_close(draw.target, x1 - x0)


def test_a_source_may_depend_on_the_conditions() -> None:
    def mixture(shape: Any, *, cond: Any, generator: Any, device: Any, dtype: Any) -> Tensor:
        return cond["mixture"] + 0.1 * torch.randn(shape, generator=generator, device=device, dtype=dtype)

    flow = Flow(zero, source=mixture)
    cond = {"mixture": 10 * torch.arange(8.0)[:, None]}
    draw = flow.draw(torch.zeros(8, 1, dtype=torch.float32), cond, generator=seeded())
    assert isinstance(draw.x0, Tensor)
    assert float((draw.x0 - cond["mixture"]).abs().max()) < 1
    x0 = flow.sample_source((8, 1), cond, seeded(), dtype=torch.float64)
    assert float((x0 - cond["mixture"]).abs().max()) < 1


def test_conditions_are_dropped_by_sample_for_training() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        seen.append(label)
        return torch.zeros_like(x)

    n = 10_000
    flow = Flow(model, null={"label": 10})
    labels = {"label": torch.zeros(n, dtype=torch.int64)}
    flow.loss(torch.zeros(n, 1), labels, condition_drop=0.2, generator=seeded())
    assert abs(float((seen[0] == 10).double().mean()) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / n)
    flow.loss(torch.zeros(n, 1), labels, generator=seeded())
    assert bool((seen[1] == 0).all())


def test_self_conditioning_hands_back_a_detached_data_estimate_in_half_of_the_steps() -> None:
    previous: list[Tensor] = []
    recorded: list[bool] = []
    weight = torch.tensor(0.5, requires_grad=True)

    def model(x: Tensor, t: Tensor, self_condition: Tensor) -> Tensor:
        previous.append(self_condition)
        recorded.append(torch.is_grad_enabled())
        return weight * x + 0.1 * self_condition

    flow = Flow(model, self_conditioning=True)
    twice = 0
    for seed in range(200):
        previous.clear()
        recorded.clear()
        generator = seeded(seed)
        draw = flow.draw(gaussian_data(4), generator=generator)
        flow.predict(draw, generator)
        assert isinstance(draw.xt, Tensor)
        assert not bool(previous[0].any())
        if len(previous) == 2:
            twice += 1
            velocity = 0.5 * draw.xt
            torch.testing.assert_close(previous[1], draw.xt + (1 - draw.t[:, None]) * velocity)
            assert not previous[1].requires_grad
        assert recorded == [False, True][-len(previous) :]
    assert abs(twice / 200 - 0.5) < 4 * 0.5 / math.sqrt(200)


def test_the_score_is_refused_where_it_is_not_defined() -> None:
    x, t = torch.zeros(2, 1), torch.full((2,), 0.5)
    with pytest.raises(ConversionError, match="coupled"):
        Flow(zero, independent=False).score(x, t)
    own_source = Flow(zero, source=lambda shape, **_: torch.zeros(shape))
    with pytest.raises(ConversionError, match="its own"):
        own_source.score(x, t)
    with pytest.raises(ConversionError, match="coupled"):
        Flow(zero, predicts="score", independent=False)
    with pytest.raises(ConversionError, match=r"MinibatchOT.*independent"):
        Flow(zero, predicts="score").draw(x, coupling=MinibatchOT(), generator=seeded())
    assert torch.equal(own_source.velocity(x, t), torch.zeros(2, 1))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="'flow'"):
        Flow(zero, predicts="flow")
    with pytest.raises(ConfigError, match=r"'velocty'.*plain, velocity"):
        Flow(zero).loss(torch.zeros(2, 1), weight="velocty", generator=seeded())


def test_one_generator_rules_all_randomness_and_no_global_one_is_touched() -> None:
    def all_calls(seed: int) -> Tensor:
        generator = seeded(seed)
        flow = Flow(lambda x, t, label, self_condition: x * t[:, None], null={"label": -1}, self_conditioning=True)
        losses = [
            flow.loss(
                gaussian_data(16),
                {"label": torch.arange(16) % 2},
                coupling=coupling,
                times=times,
                condition_drop=0.5,
                generator=generator,
            )
            for coupling in (None, MinibatchOT())
            for times in (None, UShaped(), LogitNormal(uniform=0.1))
        ]
        return torch.stack([*losses, flow.sample_source((3, 1), None, generator).sum()])

    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    first, again, other = all_calls(1), all_calls(1), all_calls(2)
    assert torch.equal(first, again)
    assert not bool((first == other).any())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert random.getstate() == python_state


def test_float32_data_gives_a_float32_draw() -> None:
    x1 = torch.randn(4, 2, generator=seeded(), dtype=torch.float32)
    draw = Flow(zero).draw(x1, generator=seeded())
    assert {value.dtype for value in (draw.x0, draw.xt, draw.t, draw.target)} == {torch.float32}


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    x1, generator = torch.ones(4, 2), seeded(0)
    with pytest.raises(ConfigError, match=r"velocity of shape \(4, 1\); its target has shape \(4, 2\)"):
        Flow(lambda x, t: x[:, :1]).loss(x1, generator=generator)
    with pytest.raises(ConfigError, match=r"x0 has shape \(1, 2\); its partners x1 have \(4, 2\)"):
        Flow(zero).loss(x1, x0=torch.zeros(1, 2), generator=generator)
    with pytest.raises(ConfigError, match="condition 'label' has 1 rows; the data has 4"):
        Flow(lambda x, t, label: x).loss(x1, {"label": torch.zeros(1)}, generator=generator)
