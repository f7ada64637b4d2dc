"""BOSS: costs in closed form, and the dynamic programme against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.optimal_steps import StepCosts, step_costs
from rectiflow.sampling import integrate
from rectiflow.spaces.so3 import SO3
from rectiflow.times import time_grid


def random_costs(fine: int, seed: int) -> StepCosts:
    costs = torch.rand(fine + 1, fine + 1, generator=torch.Generator().manual_seed(seed))
    later = torch.ones_like(costs).triu(1).bool()
    return StepCosts(time_grid(fine), costs.masked_fill(~later, torch.inf))


def mixture() -> Flow:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    return MixtureFlow([0.5, 0.3, 0.2], means, 0.05 * torch.eye(2).expand(3, 2, 2)).flow()


@pytest.mark.parametrize("seed", range(5))
def test_programme_equals_brute_force(seed: int) -> None:
    fine, steps = 12, 4
    found = random_costs(fine, seed)
    inner = itertools.combinations(range(1, fine), steps - 1)
    sums = {
        middle: sum(float(found.costs[i, j]) for i, j in itertools.pairwise((0, *middle, fine))) for middle in inner
    }
    best = min(sums, key=sums.__getitem__)
    times = found.optimal_times(steps)
    assert (times * fine).round().int().tolist() == [0, *best, fine]
    assert found.total(times) == pytest.approx(sums[best], abs=1e-12)


def test_ends_of_the_range_of_steps() -> None:
    found = random_costs(9, 0)
    assert torch.equal(found.optimal_times(9), found.times)
    assert torch.equal(found.optimal_times(1), torch.tensor([0.0, 1.0]))
    for steps in (0, 10):
        with pytest.raises(ConfigError, match=f"{steps} steps.*1 to 9"):
            found.optimal_times(steps)
    with pytest.raises(ConfigError, match="not all of the fine grid"):
        found.total(torch.tensor([0.0, 0.05, 1.0]))


def test_gaussian_costs_in_closed_form() -> None:
    """With the exact trajectory x = q(t) x0 the cost is sum_d (q_i + h q_i' - q_j)^2; Euler's own x_i tends to it."""
    variances = torch.tensor([0.25, 4.0])
    flow = GaussianFlow(torch.zeros(2), torch.diag(variances)).flow()
    # A batch whose second moments are exactly those of the source makes the average exact.
    x0 = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    fine = 100
    found = step_costs(flow, x0, fine=fine)
    t = found.times[:, None]
    q = (t.square() * variances + (1 - t).square()).sqrt()
    rate = (t * variances - (1 - t)) / q
    for i, j in ((0, 100), (30, 75), (90, 100)):
        expected = (q[i] + (t[j] - t[i]) * rate[i] - q[j]).square().sum()
        assert float(found.costs[i, j]) ** 0.5 == pytest.approx(float(expected) ** 0.5, rel=0.12)
    # Exactly, for Euler's own trajectory: x_i = x0 times the product of the factors 1 + h q'/q.
    h = 1 / fine
    factors = torch.cat([torch.ones(1, 2), (1 + h * rate / q)[:-1]]).cumprod(0)
    for i, j in ((0, 100), (33, 71)):
        expected = (factors[i] * (1 + (t[j] - t[i]) * rate[i] / q[i]) - factors[j]).square().sum()
        assert float(found.costs[i, j]) == pytest.approx(float(expected), rel=1e-9)


def test_optimal_grid_beats_the_uniform_one() -> None:
    flow = mixture()
    x0 = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    fine = 32
    found = step_costs(flow, x0, fine=fine)
    for steps in (2, 4, 8):
        assert found.total(found.optimal_times(steps)) <= found.total(time_grid(steps))
    assert found.total(found.times) < 1e-20
    # The sum of local errors stands for the error at the end: fresh samples of the mixture end closer to the exact ones.
    fresh = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    exact = integrate(flow, fresh, steps=30, method="rk4").x

    def error(times: Tensor) -> float:
        return float((integrate(flow, fresh, times=times).x - exact).square().sum(1).mean())

    assert error(found.optimal_times(4)) < 0.95 * error(time_grid(4))


def test_straight_flows_cost_nothing() -> None:
    flow = Flow(lambda x, t: torch.ones_like(x))
    found = step_costs(flow, torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), fine=10)
    assert float(found.costs[found.costs.isfinite()].max()) < 1e-28


def test_own_cost_conditions_and_curved_space() -> None:
    space = SO3()
    generator = torch.Generator().manual_seed(0)
    x0 = space.sample_prior((16, 4), generator)

    def velocity(x: Tensor, t: Tensor, speed: Tensor) -> Tensor:
        turn = torch.zeros(len(x), 3)
        turn[:, 2] = speed * t
        return turn

    speed = torch.full((16,), 1.5)
    found = step_costs(Flow(velocity, space=space), x0, fine=8, cond={"speed": speed})
    # Rotations about one axis: Euler's angle after j steps is speed h^2 (0 + 1 + ... + (j - 1)).
    angle = 1.5 / 64 * torch.arange(9).cumsum(0).sub(torch.arange(9))
    missed = angle[2] + 1.5 * (2 / 8) * (4 / 8) - angle[6]
    assert float(found.costs[2, 6]) == pytest.approx(float(missed) ** 2, rel=1e-9)
    halved = step_costs(
        Flow(velocity, space=space),
        x0,
        fine=8,
        cond={"speed": speed},
        cost=lambda reached, meant: space.distance(reached, meant).square() / 2,
    )
    later = found.costs.isfinite()
    assert torch.allclose(halved.costs[later], found.costs[later] / 2)
