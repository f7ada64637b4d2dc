"""Schemes that are their own inverse, and how far the others come back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import MixtureFlow
from rectiflow.errors import ConfigError, ConvergenceError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate, invert


def mixture() -> MixtureFlow:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    return MixtureFlow([0.5, 0.3, 0.2], means, 0.2 * torch.eye(2).expand(3, 2, 2))


def round_trip(method: str, steps: int) -> float:
    """Root mean square distance from x1 after x1 -> x0 -> x1; the second state goes along where there is one."""
    target = mixture()
    x1 = target.sample(256, torch.Generator().manual_seed(0))
    grid = torch.linspace(1, 0, steps + 1)
    down = integrate(target.flow(), x1, times=grid, method=method)
    up = integrate(target.flow(), down.x, times=grid.flip(0), method=method, auxiliary=down.auxiliary)
    return float((up.x - x1).square().sum(1).mean().sqrt())


@pytest.mark.parametrize("method", ["implicit_midpoint", "reversible_heun"])
@pytest.mark.parametrize("steps", [10, 50])
def test_reversible_schemes_come_back_to_rounding(method: str, steps: int) -> None:
    assert round_trip(method, steps) < 1e-12


def test_fireflow_comes_back_with_order_three() -> None:
    errors = [round_trip("fireflow", n) for n in (25, 50, 100, 200)]
    for measured, reference in zip(errors, (3.2e-3, 4.7e-4, 6.1e-5, 7.7e-6), strict=True):
        assert reference / 2 < measured < reference * 2
    assert math.log2(errors[2] / errors[3]) == pytest.approx(3, abs=0.3)


def test_fireflow_inverts_better_than_the_midpoint_rule_at_equal_cost() -> None:
    """26 against 50 evaluations for 25 steps: so 50 steps stand against 25."""
    assert round_trip("fireflow", 50) < round_trip("midpoint", 25) / 2.5


def test_inversion_is_by_fireflow_unless_told_otherwise() -> None:
    flow, x1 = mixture().flow(), mixture().sample(8, torch.Generator().manual_seed(0))
    assert torch.equal(invert(flow, x1, steps=7), invert(flow, x1, steps=7, method="fireflow"))
    assert not torch.equal(invert(flow, x1, steps=7), invert(flow, x1, steps=7, method="midpoint"))


@pytest.mark.parametrize("method", ["implicit_midpoint", "reversible_heun"])
def test_order_two(method: str, gaussian: Any, mixture: Any) -> None:
    assert 1.85 <= gaussian().order(method, 160) <= 2.2
    assert 1.85 <= mixture.order(method, 80) <= 2.2


def test_the_implicit_midpoint_rule_solves_linear_equations_like_the_cayley_transform() -> None:
    """dx/dt = A x: x <- (I - hA/2)^-1 (I + hA/2) x; a rotation keeps its radius to rounding."""
    rotation = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    x = torch.tensor([[1.0, 0.5]])
    found = integrate(Flow(lambda x, t: x @ rotation.mT), x, steps=4, method="implicit_midpoint").x
    half = rotation / 8
    cayley = torch.linalg.solve(torch.eye(2) - half, torch.eye(2) + half)
    torch.testing.assert_close(found, x @ torch.linalg.matrix_power(cayley, 4).mT, atol=1e-14, rtol=0)
    assert float(found.norm()) == pytest.approx(float(x.norm()), abs=1e-14)


def test_reversible_heun_by_hand() -> None:
    """dx/dt = x, two steps of 1/2: y = 1.5, x = 1.625; y = 2 * 1.625 - 1.5 + 0.75 = 2.5, x = 1.625 + (1.5 + 2.5) / 4."""
    found = integrate(Flow(lambda x, t: x), torch.ones(1, 1), steps=2, method="reversible_heun")
    assert float(found.x) == 2.625
    assert float(found.auxiliary) == 2.5
    assert found.nfe == 3
    assert integrate(Flow(lambda x, t: x), torch.ones(1, 1), steps=2).auxiliary is None


def test_without_its_second_state_reversible_heun_does_not_come_back() -> None:
    flow, grid = Flow(lambda x, t: torch.sin(3 * x)), torch.linspace(1, 0, 11)
    down = integrate(flow, torch.ones(1, 1), times=grid, method="reversible_heun")
    up = integrate(flow, down.x, times=grid.flip(0), method="reversible_heun")
    assert abs(float(up.x) - 1) > 1e-6


def test_the_implicit_midpoint_rule_counts_and_tolerates() -> None:
    calls = 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -x

    tight = integrate(Flow(model), torch.ones(2, 1), steps=4, method="implicit_midpoint")
    assert tight.nfe == calls
    loose = integrate(Flow(model), torch.ones(2, 1), steps=4, method="implicit_midpoint", rtol=1e-3)
    assert loose.nfe < tight.nfe
    torch.testing.assert_close(loose.x, tight.x, atol=1e-3, rtol=0)
    assert not torch.equal(loose.x, tight.x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_converges_to_its_own_rounding(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 8).reshape(4, 2).to(dtype)
    end = integrate(Flow(lambda x, t: torch.sin(x)), x, steps=5, method="implicit_midpoint").x
    assert end.dtype is dtype


def test_a_stiff_step_is_refused_by_number() -> None:
    flow = Flow(lambda x, t: torch.where(t > 0.5, 50.0, 1.0)[:, None] * x.cos())
    with pytest.raises(ConvergenceError, match=r"after 100 rounds in step 6 of 10; allowed: at most 1; use more steps"):
        integrate(flow, torch.ones(2, 1), steps=10, method="implicit_midpoint")
    with pytest.raises(NonFiniteError, match="at step 6 of 10"):
        integrate(
            Flow(lambda x, t: torch.where(t[:, None] > 0.5, torch.nan, x)),
            torch.ones(2, 1),
            steps=10,
            method="implicit_midpoint",
        )


def test_stochastic_methods_do_not_invert() -> None:
    with pytest.raises(ConfigError, match=r"stochastic method 'euler_maruyama'; allowed: .*fireflow"):
        invert(Flow(lambda x, t: x), torch.ones(1, 1), steps=2, method="euler_maruyama")
