"""Reflow's losses at closed forms: where they are zero, what they weigh, and along which path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch
from rectiflow.diagnostics import straightness, transport_cost
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Linear, Trigonometric
from rectiflow.matching import FlowMatching
from rectiflow.rectify.annealing import Annealing
from rectiflow.rectify.distances import PseudoHuber
from rectiflow.rectify.method import Support
from rectiflow.rectify.rectified_flow import RectifiedFlow
from rectiflow.sampling import integrate
from rectiflow.sources import StudentT
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.times import UShaped


def test_closed_forms_of_straightness_and_cost() -> None:
    """S = (2 - pi/2) sum c before rectification and 0 after; cost |m|^2 + sum (1 + c^2) before, + sum (c - 1)^2 after."""
    c, m = torch.tensor([0.5, 2.0]), torch.tensor([1.0, -1.0])
    flow = GaussianFlow(m, torch.diag(c.square())).flow()
    x0 = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    assert float(straightness(flow, x0, steps=200)) == pytest.approx(float((2 - torch.pi / 2) * c.sum()), rel=0.01)
    end = m + c * x0
    assert float(transport_cost(x0, end)) == pytest.approx(float(m.square().sum() + (c - 1).square().sum()), rel=0.02)
    assert float(transport_cost(x0, end)) < float(m.square().sum() + (1 + c.square()).sum())


def test_rectified_flow_is_straight(oracle: Any) -> None:
    flow = oracle.rectified()
    assert float(straightness(flow, oracle.noise(100))) < 1e-24
    one = integrate(flow, oracle.noise(100), steps=1).x
    assert torch.allclose(one, oracle.pairs(100).x1, atol=1e-12)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
@pytest.mark.parametrize("method", [RectifiedFlow(), RectifiedFlow(distance=PseudoHuber(), times=UShaped())])
def test_zero_at_the_rectified_flow_of_any_path(oracle: Any, path: Any, method: RectifiedFlow) -> None:
    batch = oracle.pairs(200)
    loss, terms = method.loss(oracle.rectified(path), batch, oracle.seeded())
    assert float(loss) < 1e-20
    assert terms == {}
    before, _ = method.loss(oracle.gaussian(path).flow(), batch, oracle.seeded())
    assert float(before) > 1e-3


def test_plain_loss_is_flow_matching(oracle: Any) -> None:
    flow, batch = oracle.gaussian().flow(), oracle.pairs(100)
    mine, _ = RectifiedFlow().loss(flow, batch, oracle.seeded())
    plain, _ = FlowMatching().loss(flow, batch, oracle.seeded())
    assert torch.allclose(mine, plain, rtol=1e-12)


def test_compared_as_data_it_weighs_by_the_noise_left(oracle: Any) -> None:
    flow = Flow(lambda x, t: torch.zeros_like(x))
    batch = oracle.pairs(400)
    draw = flow.draw(batch.x1, x0=batch.x0, generator=oracle.seeded())
    expected = ((1 - draw.t)[:, None] * (batch.x1 - batch.x0)).square().mean()
    loss, _ = RectifiedFlow(compare="data").loss(flow, batch, oracle.seeded())
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)


def test_perceptual_term_and_its_times(oracle: Any) -> None:
    """With v = 0 the estimate is x_t, and its distance from x1 is (1 - t)^2 |x1 - x0|^2, divided by 1 - t >= 0.001."""
    flow = Flow(lambda x, t: torch.zeros_like(x))
    batch = oracle.pairs(400)
    seen: list[Tensor] = []

    def perceptual(estimate: Any, x1: Any) -> Tensor:
        seen.append(estimate)
        distance: Tensor = (estimate - x1).square().sum(1)
        return distance

    method = RectifiedFlow(distance=PseudoHuber(), perceptual=perceptual, times=UShaped())
    loss, terms = method.loss(flow, batch, oracle.seeded())
    draw = flow.draw(batch.x1, x0=batch.x0, times=UShaped(), generator=oracle.seeded())
    squares = (batch.x1 - batch.x0).square().sum(1)
    left = 1 - draw.t
    assert torch.equal(seen[0], draw.xt)
    assert float(terms["perceptual"]) == pytest.approx(float((left.square() / left.clamp(min=1e-3) * squares).mean()))
    c = 0.00054 * 3
    huber = ((squares + c**2).sqrt() - c) / 3
    assert float(terms["matching"]) == pytest.approx(float((draw.t * huber).mean()), rel=1e-9)
    assert float(loss) == pytest.approx(float(terms["matching"] + terms["perceptual"]))


def test_annealing_is_flow_matching_at_first_and_reflow_at_last(oracle: Any) -> None:
    method = RectifiedFlow(annealing=Annealing(100))
    batch = oracle.pairs(4000)
    independent, paired = oracle.gaussian().flow(), oracle.rectified()
    last, _ = method.loss(paired, batch, oracle.seeded(3), support=Support(step=100, steps=200))
    assert float(last) < 1e-20
    first, _ = method.loss(paired, batch, oracle.seeded(3), support=Support(step=0, steps=200))
    better, _ = method.loss(independent, batch, oracle.seeded(3), support=Support(step=0, steps=200))
    assert float(better) < float(first)
    middle, _ = method.loss(paired, batch, oracle.seeded(3), support=Support(step=50, steps=200))
    assert 0 < float(middle) < float(first)
    # At beta = 1 the loss is that of fresh sources: independent flow matching on the same data.
    fresh = torch.stack([FlowMatching().loss(independent, Batch(batch.x1), oracle.seeded(s + 4))[0] for s in range(4)])
    assert float(better) == pytest.approx(float(fresh.mean()), rel=0.1)


def test_products_and_padding() -> None:
    space = Product(a=Euclidean(), b=Euclidean(), weights={"b": 4.0})
    flow = Flow(lambda x, t: {name: torch.zeros_like(part) for name, part in x.items()}, space=space)
    x0 = {"a": torch.zeros(1, 2, 2), "b": torch.zeros(1, 1)}
    x1 = {"a": torch.tensor([[[3.0, 4.0], [torch.nan, torch.nan]]]), "b": torch.tensor([[6.0]])}
    batch = Batch(x1=x1, x0=x0, mask={"a": torch.tensor([[True, False]])})
    loss, _ = RectifiedFlow().loss(flow, batch, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(25 / 2 + 4 * 36)
    c = 0.1 * 3
    huber, _ = RectifiedFlow(distance=PseudoHuber(0.1)).loss(flow, batch, torch.Generator().manual_seed(0))
    assert float(huber) == pytest.approx(((25 + 144 + c**2) ** 0.5 - c) / 3)


def test_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="trains on pairs"):
        RectifiedFlow().loss(oracle.rectified(), oracle.data(4), oracle.seeded())
    with pytest.raises(ConfigError, match="condition_drop is 2"):
        RectifiedFlow(condition_drop=2)
    with pytest.raises(ConfigError, match="'speed' is unknown"):
        RectifiedFlow(compare="speed")  # type: ignore[arg-type]
    flow = Flow(lambda x, t: x, source=StudentT(4.0))
    with pytest.raises(ConfigError, match="annealing mixes normal sources"):
        RectifiedFlow(annealing=Annealing(10)).loss(flow, oracle.pairs(4), oracle.seeded())


def test_rectified_diffusion_is_first_order_along_its_own_path(oracle: Any) -> None:
    """After rectification along a curved path both estimates are constant: one step of ddim is exact, one of Euler not."""
    path = Trigonometric()
    flow = oracle.rectified(path)
    x0, x1 = oracle.noise(20), oracle.pairs(20).x1
    for time in (0.1, 0.5, 0.9):
        t = torch.full((20,), time)
        xt, _ = flow.space.path(x0, x1, t, path)
        assert torch.allclose(flow.noise(xt, t), x0, atol=1e-12)
        assert torch.allclose(flow.data(xt, t), x1, atol=1e-12)
    for steps in (1, 3):
        assert torch.allclose(integrate(flow, x0, steps=steps, method="ddim").x, x1, atol=1e-12)
    assert float((integrate(flow, x0, steps=1, method="euler").x - x1).norm(dim=1).min()) > 0.1
    before = oracle.gaussian(path).flow()
    assert float((integrate(before, x0, steps=1, method="ddim").x - x1).norm(dim=1).max()) > 0.5
