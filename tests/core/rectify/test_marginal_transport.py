"""MDT-dist on the Gaussian flow: its fixed point, and where distillation pulls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.rectify.marginal_transport import MarginalTransport
from rectiflow.rectify.method import Support
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.sphere import Sphere
from rectiflow.times import Uniform


class Wrong(nn.Module):
    """The average velocity with an error that a parameter scales."""

    def __init__(self, right: Any, error: float) -> None:
        super().__init__()
        self.right = right
        self.error = nn.Parameter(torch.tensor(error))
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        wrong: Tensor = self.right(x, t) + self.error
        return wrong


def test_oracle_is_the_average_velocity(oracle: Any) -> None:
    x, t = oracle.noise(50), torch.linspace(0, 0.98, 50)
    carried = oracle.gaussian().flow_map(x, t, torch.ones(50))
    assert torch.allclose(x + (1 - t)[:, None] * oracle.average_velocity(x, t), carried, atol=1e-12)


@pytest.mark.parametrize(("derivative", "accuracy"), [("forward", 1e-20), ("difference", 1e-7)])
def test_average_velocity_is_the_fixed_point(derivative: str, accuracy: float, oracle: Any) -> None:
    method = MarginalTransport(times=Uniform(), derivative=derivative, step=1e-4)
    support = Support(oracle.gaussian().flow())
    at_it, terms = method.loss(Flow(oracle.average_velocity), oracle.data(200), oracle.seeded(), support=support)
    assert float(at_it) < accuracy
    assert set(terms) == {"matching", "distillation"}
    # The velocity itself is not: straightness is what is asked of it.
    beside, _ = method.loss(oracle.gaussian().flow(), oracle.data(200), oracle.seeded(), support=support)
    assert float(beside) > 1e-2


def test_distillation_moves_the_one_step_against_the_residual(oracle: Any) -> None:
    """A constant error e makes the residual e plus what e changes in du/dt, which is 0: the gradient is 2 e."""
    network = Wrong(oracle.average_velocity, 0.3)
    method = MarginalTransport(times=Uniform(), matching=0.0)
    loss, _ = method.loss(Flow(network), oracle.data(64), oracle.seeded(), support=Support(oracle.gaussian().flow()))
    loss.backward()
    # Mean over 3 entries of r^2, r = 0.3 for each: d/d e of mean (step - stopgrad(step - r))^2 = 2 r.
    assert loss.item() == pytest.approx(0.3**2, rel=1e-9)
    assert network.error.grad is not None
    assert float(network.error.grad) == pytest.approx(2 * 0.3, rel=1e-9)
    assert torch.equal(network.times[0], torch.zeros(64))  # the step that is moved begins at the noise


def test_matching_has_no_gradient_through_its_target(oracle: Any) -> None:
    network = Wrong(oracle.average_velocity, -0.2)
    method = MarginalTransport(times=Uniform(), distillation=0.0, matching=2.0)
    loss, _ = method.loss(Flow(network), oracle.data(64), oracle.seeded(), support=Support(oracle.gaussian().flow()))
    loss.backward()
    assert loss.item() == pytest.approx(2 * 0.04, rel=1e-9)
    assert network.error.grad is not None
    assert float(network.error.grad) == pytest.approx(2 * 2 * -0.2, rel=1e-9)


def test_at_power_one_every_sample_has_the_same_say(oracle: Any) -> None:
    """An error e weighs as e^2 / (e^2 + offset), with the gradient 2 e / (e^2 + offset), in both terms."""
    for terms in ({"distillation": 0.0}, {"matching": 0.0}):
        network = Wrong(oracle.average_velocity, 0.3)
        method = MarginalTransport(times=Uniform(), power=1.0, offset=0.01, **terms)
        support = Support(oracle.gaussian().flow())
        loss, _ = method.loss(Flow(network), oracle.data(64), oracle.seeded(), support=support)
        loss.backward()
        assert loss.item() == pytest.approx(0.09 / 0.1, rel=1e-9)
        assert network.error.grad is not None
        assert float(network.error.grad) == pytest.approx(2 * 0.3 / 0.1, rel=1e-9)


def test_distillation_begins_after_its_share_of_the_steps(oracle: Any) -> None:
    method = MarginalTransport(distillation_after=0.5)
    for step, terms in [(0, {"matching"}), (4, {"matching"}), (5, {"matching", "distillation"})]:
        support = Support(oracle.gaussian().flow(), step=step, steps=10)
        assert (
            method.loss(Flow(oracle.average_velocity), oracle.data(8), oracle.seeded(), support=support)[1].keys()
            == terms
        )


def test_normalised_derivative_is_bounded(oracle: Any) -> None:
    """With a steep student the plain target is huge, the normalised one within a unit of the velocity."""
    flow = Flow(lambda x, t: 1000 * t[:, None] * torch.ones_like(x))
    teacher = Flow(lambda x, t: torch.zeros_like(x))
    draw = flow.draw(oracle.data(64).x1, generator=oracle.seeded())
    _, target = MarginalTransport(normalise=True)._average_and_target(flow, teacher, draw, 1.0, oracle.seeded())
    assert torch.allclose(target.norm(dim=1), (1 - draw.t) * 1000 * 3**0.5 / (1000 * 3**0.5 + 0.1))
    _, target = MarginalTransport(normalise=False)._average_and_target(flow, teacher, draw, 1.0, oracle.seeded())
    assert torch.allclose(target, (1 - draw.t)[:, None] * torch.full((64, 3), 1000.0))


def test_the_norm_is_of_the_whole_sample_and_of_its_data_alone(oracle: Any) -> None:
    """Two components with slopes 3 and 4 in norm are divided by 5.1 together; what stands in padding counts for nothing."""
    space = Product(a=Euclidean(), b=Euclidean())

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"a": t[:, None] * torch.tensor([3.0, 0.0]), "b": t[:, None] * torch.tensor([0.0, 4.0, 0.0])}

    flow = Flow(model, space=space)
    still = Flow(lambda x, t: {name: torch.zeros_like(part) for name, part in x.items()}, space=space)
    draw = flow.draw({"a": torch.zeros(6, 2), "b": torch.zeros(6, 3)}, generator=oracle.seeded())
    _, target = MarginalTransport(normalise=True)._average_and_target(flow, still, draw, 1.0, oracle.seeded())
    assert torch.allclose(target["a"][:, 0], (1 - draw.t) * 3 / 5.1)
    assert torch.allclose(target["b"][:, 1], (1 - draw.t) * 4 / 5.1)

    def padded(x: Tensor, t: Tensor) -> Tensor:
        return t[:, None] * torch.tensor([5.0, 1e6])

    mask = torch.tensor([[True, False]] * 6)
    draw = Flow(padded).draw(torch.zeros(6, 2), mask=mask, generator=oracle.seeded())
    nowhere = Flow(lambda x, t: torch.zeros_like(x))
    _, target = MarginalTransport(normalise=True)._average_and_target(Flow(padded), nowhere, draw, 1.0, oracle.seeded())
    assert torch.allclose(target[:, 0], (1 - draw.t) * 5 / 5.1)


def test_times_lean_to_the_noise(oracle: Any) -> None:
    """sigmoid(N(1, 1)) in the reference's time, which runs to noise: 0.9 of the logits here have median -1."""
    t = MarginalTransport().times.sample(20_000, oracle.seeded())
    # P(t < sigmoid(-1)) = 0.9 / 2 + 0.1 sigmoid(-1).
    expected = 0.45 + 0.1 * 0.2689
    assert abs(float((t < 0.2689).double().mean()) - expected) < 4 * (expected * (1 - expected) / 20_000) ** 0.5


def test_guided_teacher_and_conditions(oracle: Any) -> None:
    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return label[:, None] * torch.ones_like(x)

    teacher = Flow(model, null={"label": 0})
    batch = Batch(x1=oracle.noise(8), cond={"label": torch.full((8,), 2)})
    method = MarginalTransport(guidance=3.0, distillation_guidance=5.0)
    _, terms = method.loss(
        Flow(lambda x, t, label: torch.zeros_like(x)), batch, oracle.seeded(), support=Support(teacher)
    )
    assert float(terms["matching"]) == pytest.approx(6.0**2)
    assert float(terms["distillation"]) == pytest.approx(10.0**2)


def test_refused(oracle: Any) -> None:
    support = Support(oracle.gaussian().flow())
    with pytest.raises(ConfigError, match="one above"):
        MarginalTransport(matching=0, distillation=0)
    for wrong in ({"distillation_after": 1.5}, {"distillation_after": 0.5, "matching": 0.0}):
        with pytest.raises(ConfigError, match="distillation begins after"):
            MarginalTransport(**wrong)
    with pytest.raises(ConfigError, match="forward, difference"):
        MarginalTransport(derivative="backward")
    with pytest.raises(ConfigError, match=r"step 0\.0; power must be"):
        MarginalTransport(step=0.0)
    with pytest.raises(ConfigError, match="power -1"):
        MarginalTransport(power=-1.0)
    with pytest.raises(ConfigError, match="asks a teacher"):
        MarginalTransport().loss(Flow(oracle.average_velocity), oracle.data(4), oracle.seeded())
    with pytest.raises(ConfigError, match="needs the linear path"):
        MarginalTransport().loss(
            Flow(oracle.average_velocity, Trigonometric()), oracle.data(4), oracle.seeded(), support=support
        )
    with pytest.raises(ConfigError, match="adds states"):
        MarginalTransport().loss(
            Flow(oracle.average_velocity, space=Sphere()), oracle.data(4), oracle.seeded(), support=support
        )
