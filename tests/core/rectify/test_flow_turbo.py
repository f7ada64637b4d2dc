"""FlowTurbo's blocks: what they equal with an exact refiner, what they cost, and their order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.rectify.flow_turbo import Blocks, flow_turbo
from rectiflow.sampling import integrate
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.sphere import Sphere


def oracle() -> GaussianFlow:
    return GaussianFlow(torch.tensor([1.0, -2.0, 0.5]), torch.diag(torch.tensor([0.2, 1.5, 4.0])), Trigonometric())


def exact(flow: Flow) -> Any:
    """The refiner that knows the flow."""
    return lambda x, t, velocity, **cond: flow.velocity(x, t, **cond) - velocity


def sources(count: int = 64) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("blocks", [Blocks(0, 0, 7), Blocks(3, 0, 4), Blocks(7, 0, 0)])
def test_exact_refiner_reproduces_heun(blocks: Blocks) -> None:
    flow = oracle().flow()
    x0 = sources()
    found = flow_turbo(flow, exact(flow), x0, blocks=blocks)
    assert torch.allclose(found.x, integrate(flow, x0, steps=7, method="heun").x, atol=1e-12, rtol=0)
    assert found.nfe == blocks.nfe


def test_pseudo_corrector_block_alone_is_the_solver() -> None:
    flow = oracle().flow()
    found = flow_turbo(flow, exact(flow), sources(), blocks=Blocks(0, 6, 0))
    same = integrate(flow, sources(), steps=6, method="pseudo_corrector")
    assert torch.equal(found.x, same.x)
    assert found.nfe == same.nfe == 7


@pytest.mark.parametrize(("shares", "nfe"), [((1, 0, 1), 1.0), ((0, 1, 1), 0.5), ((2, 1, 1), 1.25)])
def test_order_two_and_count(shares: tuple[int, int, int], nfe: float) -> None:
    closed = oracle()
    flow = closed.flow()
    x0 = sources()
    end = closed.flow_map(x0, torch.zeros(64), torch.ones(64))
    errors = []
    for steps in (40, 80, 160):
        blocks = Blocks(*(steps * share // sum(shares) for share in shares))
        found = flow_turbo(flow, exact(flow), x0, blocks=blocks)
        errors.append(float((found.x - end).square().mean().sqrt()))
        assert found.nfe == blocks.nfe == nfe * steps + (blocks.heun == 0)
    order = torch.tensor(errors[1] / errors[2]).log2()
    assert 1.85 < float(order) < 2.2


def test_refiner_sees_the_velocity_before_it_and_the_conditions() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def refiner(x: Tensor, t: Tensor, velocity: Tensor, speed: Tensor) -> Tensor:
        seen.append((x.clone(), t, velocity.clone()))
        assert torch.equal(speed, torch.ones(2))
        return torch.ones_like(x)

    flow = Flow(lambda x, t, speed: torch.zeros_like(x))
    found = flow_turbo(flow, refiner, torch.zeros(2, 1), blocks=Blocks(0, 1, 1), cond={"speed": torch.ones(2)})
    # The step has velocities 1 and 2, each one more than the last: half of 1.5.
    assert [float(t[0]) for _, t, _ in seen] == [0.5, 1.0]
    assert [float(velocity[0]) for _, _, velocity in seen] == [0.0, 1.0]
    assert [float(x[0]) for x, _, _ in seen] == [0.0, 0.5]
    assert torch.allclose(found.x, torch.full((2, 1), 0.75))


def test_guided_velocity_is_what_is_refined() -> None:
    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return (label[:, None] + t[:, None]) * torch.ones_like(x)

    flow = Flow(model, null={"label": 0})
    cond = {"label": torch.tensor([2])}
    found = flow_turbo(
        flow,
        lambda x, t, velocity, label: 3 * label[:, None] + t[:, None] - velocity,
        torch.zeros(1, 2),
        blocks=Blocks(1, 1, 2),
        cond=cond,
        guidance=3.0,
    )
    assert torch.allclose(found.x, torch.full((1, 2), 6.5))  # the trapezoid rule is exact on 6 + t
    assert found.nfe == 2 * 3


def test_products_with_curved_parts() -> None:
    space = Product(point=Euclidean(), place=Sphere())

    def velocity(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        axis = torch.tensor([0.3, -1.0, 0.8]).expand_as(x["place"])
        return {"point": t[:, None] - x["point"], "place": (1 + t[:, None]) * torch.linalg.cross(axis, x["place"])}

    flow = Flow(velocity, space=space)
    x0 = space.sample_prior({"point": (8, 2), "place": (8, 3)}, torch.Generator().manual_seed(0))

    def refiner(x: dict[str, Tensor], t: Tensor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        true = velocity(x, t)
        return {name: true[name] - v[name] for name in v}

    found = flow_turbo(flow, refiner, x0, blocks=Blocks(2, 0, 4)).x
    heun = integrate(flow, x0, steps=6, method="heun").x
    for name in found:
        assert torch.allclose(found[name], heun[name], atol=1e-12)


def test_refused() -> None:
    for counts in ((0, 0, 0), (-1, 2, 3)):
        with pytest.raises(ConfigError, match="at least"):
            Blocks(*counts)
