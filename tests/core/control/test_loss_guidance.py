"""Loss guidance on any space: gradients, tangents, and motifs of product states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.control import sample_with_loss
from rectiflow.control.loss_guidance import gradient
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("space", [SO3(), Sphere()], ids=repr)
def test_gradient_of_half_the_squared_distance_points_away_from_the_goal(space: SO3 | Sphere) -> None:
    """grad d(x, y)^2 / 2 = -log_x(y) on every Riemannian manifold."""
    x, y = unit(50, 4), unit(50, 4, seed=1)
    ascent, value = gradient(lambda z: space.distance(z, y).square() / 2, space, x)
    torch.testing.assert_close(ascent, -space.log(x, y), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(value, space.distance(x, y).square() / 2)


def test_gradient_is_zero_for_what_the_loss_does_not_see() -> None:
    space = Product(place=Euclidean(), turn=SO3())
    x = {"place": torch.ones(3, 2), "turn": unit(3, 4)}
    ascent, _ = gradient(lambda z: z["place"].square().sum(1), space, x)
    assert ascent["place"].tolist() == [[2.0, 2.0]] * 3
    assert ascent["turn"].tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize("through_network", [False, True])
def test_a_loss_on_rotations_is_met_and_the_rest_stays(through_network: bool) -> None:
    """A network that says "the data are x itself" on a product; the loss asks for the first rotation alone."""
    space = Product(place=Euclidean(), turn=SO3())
    goal = unit(1, 4, seed=7)

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"place": 0 * x["place"] + 0.5, "turn": torch.zeros_like(x["turn"][..., :3])}

    flow = Flow(model, space=space)
    x = {"place": torch.zeros(20, 2, 3), "turn": unit(20, 2, 4)}
    one = SO3()

    def loss(state: dict[str, Tensor]) -> Tensor:
        return one.distance(state["turn"][:, 0], goal.expand(20, 4)).square() / 2

    end = sample_with_loss(flow, x, loss, step_size=0.5, steps=40, through_network=through_network).x
    assert float(one.distance(end["turn"][:, 0], goal.expand(20, 4)).max()) < 1e-6
    torch.testing.assert_close(one.distance(end["turn"][:, 1], x["turn"][:, 1]), torch.zeros(20), atol=1e-7, rtol=0)
    torch.testing.assert_close(end["place"], torch.full((20, 2, 3), 0.5))


def test_the_velocity_is_carried_along_with_a_corrected_rotation() -> None:
    """One corrected step on SO(3), by hand: move towards the goal, carry the tangent there, then step."""
    space = SO3()
    x, goal = unit(5, 4), unit(5, 4, seed=2)
    v = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    ends: list[Tensor] = []

    def model(z: Tensor, t: Tensor) -> Tensor:
        ends.append(z)
        return v

    times = torch.tensor([0.2, 0.5, 1.0])
    flow = Flow(model, space=space)
    sample_with_loss(flow, x, lambda z: space.distance(z, goal).square() / 2, step_size=0.25, times=times)
    estimate = space.exp(x, 0.8 * v)
    pull = space.transport(estimate, x, space.log(estimate, goal))
    corrected = space.exp(x, 0.25 * pull)
    expected = space.exp(corrected, 0.3 * space.transport(x, corrected, v))
    torch.testing.assert_close(space.distance(ends[1], expected), torch.zeros(5), atol=1e-6, rtol=0)


def test_corrections_share_one_evaluation_and_go_further() -> None:
    flow = GaussianFlow(torch.zeros(2), torch.eye(2)).flow()
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    far = [
        sample_with_loss(flow, x, lambda z: (z - 4).square().sum(1) / 2, step_size=0.02, steps=10, corrections=n)
        for n in (1, 5)
    ]
    assert [solution.nfe for solution in far] == [10, 10]
    distances = [float((solution.x - 4).norm(dim=1).mean()) for solution in far]
    assert distances[1] < 0.7 * distances[0]


def test_step_size_zero_is_plain_sampling_and_a_function_sees_the_times() -> None:
    flow = GaussianFlow(torch.zeros(2), torch.eye(2)).flow()
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    plain = integrate(flow, x, steps=4, shift=2.0).x
    seen: list[float] = []

    def nothing(t: float) -> float:
        seen.append(t)
        return 0.0

    torch.testing.assert_close(
        sample_with_loss(flow, x, lambda z: z.sum(1), step_size=nothing, steps=4, shift=2.0).x, plain
    )
    assert seen == pytest.approx([0, 1 / 7, 1 / 3])  # never in the last step


def test_mistakes_are_named() -> None:
    flow = GaussianFlow(torch.zeros(2), torch.eye(2)).flow()
    x = torch.zeros(3, 2)

    def loss(z: Tensor) -> Tensor:
        return z.sum(1)

    with pytest.raises(ConfigError, match="neither of steps and times"):
        sample_with_loss(flow, x, loss, step_size=1.0)
    with pytest.raises(ConfigError, match="from 1 to 0"):
        sample_with_loss(flow, x, loss, step_size=1.0, times=torch.tensor([1.0, 0.0]))
    with pytest.raises(ConfigError, match="corrections is 2; allowed: 1"):
        sample_with_loss(flow, x, loss, step_size=1.0, steps=3, corrections=2, through_network=True)
    with pytest.raises(ConfigError, match="corrections is 0"):
        sample_with_loss(flow, x, loss, step_size=1.0, steps=3, corrections=0)
