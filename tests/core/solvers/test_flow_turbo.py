"""FlowTurbo's blocks: what they equal with an exact refiner, what they cost, and their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.sampling import integrate
from rectiflow.solvers.flow_turbo import Blocks
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.sphere import Sphere


def oracle() -> GaussianFlow:
    return GaussianFlow(torch.tensor([1.0, -2.0, 0.5]), torch.diag(torch.tensor([0.2, 1.5, 4.0])), Trigonometric())


def with_exact_refiner(flow: Flow) -> Flow:
    """The flow with a refiner that knows it."""

    def model(x: Any, t: Tensor, velocity: Any = None, **cond: Tensor) -> Any:
        true = flow.model(x, t, **cond)
        if velocity is None:
            return true
        return {name: true[name] - velocity[name] for name in true} if isinstance(x, dict) else true - velocity

    return replace(flow, model=model, refines=True)


def sources(count: int = 64) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def solve(flow: Flow, x: Any, blocks: Blocks, **options: Any) -> Any:
    return integrate(flow, x, steps=blocks.steps, method="flow_turbo", blocks=blocks, **options)


@pytest.mark.parametrize("blocks", [Blocks(0, 0, 7), Blocks(3, 0, 4), Blocks(7, 0, 0)])
def test_exact_refiner_reproduces_heun(blocks: Blocks) -> None:
    flow = oracle().flow()
    found = solve(with_exact_refiner(flow), sources(), blocks)
    heun = integrate(flow, sources(), steps=7, method="heun")
    assert torch.allclose(found.x, heun.x, atol=1e-12, rtol=0)
    assert found.nfe == blocks.nfe
    without = solve(flow, sources(), blocks)  # a flow without a refiner pays for those steps
    assert torch.allclose(without.x, heun.x, atol=1e-12, rtol=0)
    assert without.nfe == heun.nfe


def test_pseudo_corrector_block_alone_is_the_solver() -> None:
    flow = with_exact_refiner(oracle().flow())
    found = solve(flow, sources(), Blocks(0, 6, 0))
    same = integrate(flow, sources(), steps=6, method="pseudo_corrector")
    assert torch.equal(found.x, same.x)
    assert found.nfe == same.nfe == 7


@pytest.mark.parametrize(("shares", "nfe"), [((1, 0, 1), 1.0), ((0, 1, 1), 0.5), ((2, 1, 1), 1.25)])
def test_order_two_and_count(shares: tuple[int, int, int], nfe: float) -> None:
    closed = oracle()
    flow = with_exact_refiner(closed.flow())
    end = closed.flow_map(sources(), torch.zeros(64), torch.ones(64))
    errors = []
    for steps in (40, 80, 160):
        blocks = Blocks(*(steps * share // sum(shares) for share in shares))
        found = solve(flow, sources(), blocks)
        errors.append(float((found.x - end).square().mean().sqrt()))
        assert found.nfe == blocks.nfe == nfe * steps + (blocks.heun == 0)
    order = torch.tensor(errors[1] / errors[2]).log2()
    assert 1.85 < float(order) < 2.2


def test_refiner_sees_the_velocity_before_it_and_the_conditions() -> None:
    seen: list[tuple[float, float, float]] = []

    def model(x: Tensor, t: Tensor, speed: Tensor, velocity: Tensor | None = None) -> Tensor:
        if velocity is None:
            return torch.zeros_like(x)
        seen.append((float(t[0]), float(x[0]), float(velocity[0])))
        assert torch.equal(speed, torch.ones(2))
        return torch.ones_like(x)

    flow = Flow(model, refines=True)
    found = solve(flow, torch.zeros(2, 1), Blocks(0, 1, 1), cond={"speed": torch.ones(2)})
    # The step has velocities 1 and 2, each one more than the last: half of 1.5.
    assert seen == [(0.5, 0.0, 0.0), (1.0, 0.5, 1.0)]
    assert torch.allclose(found.x, torch.full((2, 1), 0.75))


def test_guided_velocity_is_what_is_refined() -> None:
    def model(x: Tensor, t: Tensor, label: Tensor, velocity: Tensor | None = None) -> Tensor:
        true = (label[:, None] + t[:, None]) * torch.ones_like(x)
        return true if velocity is None else 3 * label[:, None] + t[:, None] - velocity

    flow = Flow(model, null={"label": 0}, refines=True)
    found = solve(flow, torch.zeros(1, 2), Blocks(1, 1, 2), cond={"label": torch.tensor([2])}, guidance=3.0)
    assert torch.allclose(found.x, torch.full((1, 2), 6.5))  # the trapezoid rule is exact on 6 + t
    assert found.nfe == 2 * 3


def test_products_with_curved_parts() -> None:
    space = Product(point=Euclidean(), place=Sphere())

    def velocity(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        axis = torch.tensor([0.3, -1.0, 0.8]).expand_as(x["place"])
        return {"point": t[:, None] - x["point"], "place": (1 + t[:, None]) * torch.linalg.cross(axis, x["place"])}

    flow = Flow(velocity, space=space)
    x0 = space.sample_prior({"point": (8, 2), "place": (8, 3)}, torch.Generator().manual_seed(0))
    found = solve(with_exact_refiner(flow), x0, Blocks(2, 0, 4)).x
    heun = integrate(flow, x0, steps=6, method="heun").x
    for name in found:
        assert torch.allclose(found[name], heun[name], atol=1e-12)


def test_usual_shares_and_what_is_refused() -> None:
    assert Blocks.of(9) == Blocks(1, 5, 3)
    assert Blocks.of(1) == Blocks(1, 0, 0)
    flow = with_exact_refiner(oracle().flow())
    assert torch.equal(
        integrate(flow, sources(), steps=9, method="flow_turbo").x, solve(flow, sources(), Blocks(1, 5, 3)).x
    )
    for counts in ((0, 0, 0), (-1, 2, 3)):
        with pytest.raises(ConfigError, match="at least"):
            Blocks(*counts)
    with pytest.raises(ConfigError, match="grid of 4 steps"):
        integrate(flow, sources(), steps=4, method="flow_turbo", blocks=Blocks(1, 1, 1))
