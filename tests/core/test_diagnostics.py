"""Straightness and transport cost against the closed forms of a Gaussian target."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.diagnostics import straightness, transport_cost
from rectiflow.flow import Flow
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product

STD = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
MEAN = torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64)


def unit_sources() -> Tensor:
    """The eight corners (+-1, +-1, +-1): exactly the second moments of N(0, I), all that a linear flow's cost depends on."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)


def test_straightness_of_the_first_rectified_flow() -> None:
    """S = (2 - pi / 2) sum c_i, whatever the mean."""
    for mean in (MEAN, torch.zeros(3)):
        flow = GaussianFlow(mean, torch.diag(STD.square())).flow()
        measured = float(straightness(flow, unit_sources(), steps=1600))
        assert measured == pytest.approx((2 - math.pi / 2) * float(STD.sum()), rel=0.01)


def test_straightness_from_random_sources() -> None:
    """The estimator as it is used: 20 000 draws and 200 steps are within 1 % as well."""
    flow = GaussianFlow(MEAN, torch.diag(torch.ones(3))).flow()
    x0 = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    assert float(straightness(flow, x0, steps=200)) == pytest.approx((2 - math.pi / 2) * 3, rel=0.01)


def test_reflowed_velocity_is_straight() -> None:
    """x1 = m + c x0, so v(x, t) = m + (c - 1)(x - t m) / (1 + t (c - 1)): S = 0."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return MEAN + (STD - 1) * (x - t * MEAN) / (1 + t * (STD - 1))

    assert float(straightness(Flow(velocity), unit_sources(), steps=50)) < 1e-24


def test_relative_straightness_divides_by_the_squared_displacement() -> None:
    """v = 2 t from 0 in two Euler steps: speeds 0 and 1, displacement 1/2, deviations 1/4 and 1/4, both over 1/4."""
    flow, x0 = Flow(lambda x, t: 2 * t[:, None].expand_as(x)), torch.zeros(1, 3)
    assert float(straightness(flow, x0, steps=2)) == pytest.approx(3 * 0.25)
    assert float(straightness(flow, x0, steps=2, relative=True)) == pytest.approx(1.0)


def test_straightness_follows_conditions_guidance_and_products() -> None:
    def model(x: dict[str, Tensor], t: Tensor, label: Tensor) -> dict[str, Tensor]:
        speed = label[:, None] * t[:, None]
        return {"a": speed.expand_as(x["a"]), "b": 2 * speed.expand_as(x["b"])}

    flow = Flow(model, space=Product(a=Euclidean(), b=Euclidean()), null={"label": 0.0})
    x0 = {"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)}
    cond = {"label": torch.tensor([1.0, 3.0])}
    # speeds 0 and l / 2, displacement l / 4: deviation l^2 / 16, times 1 + 4 over the components, mean of l^2 = 5
    assert float(straightness(flow, x0, steps=2, cond=cond)) == pytest.approx(5 * 5 / 16)
    assert float(straightness(flow, x0, steps=2, cond=cond, guidance=2.0)) == pytest.approx(4 * 5 * 5 / 16)


def test_transport_cost_before_and_after_reflow() -> None:
    """Independent: |m|^2 + sum (1 + c^2). Reflowed, x1 = m + c x0: |m|^2 + sum (c - 1)^2."""
    n, g = 200_000, torch.Generator().manual_seed(0)
    x0, other = torch.randn(2, n, 3, generator=g)
    size = float(MEAN.square().sum())
    for x1, expected in ((MEAN + STD * other, (1 + STD.square()).sum()), (MEAN + STD * x0, (STD - 1).square().sum())):
        cost = (x1 - x0).square().sum(1)
        standard_error = float(cost.std()) / math.sqrt(n)
        assert abs(float(transport_cost(x0, x1)) - size - float(expected)) < 4 * standard_error


def test_transport_cost_sums_entries_and_averages_samples() -> None:
    x0, x1 = torch.zeros(2, 2, 2), torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]])
    assert float(transport_cost(x0, x1)) == 4.0
