"""MeanFlow on the closed-form flow of a Gaussian, where the average velocity is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Polynomial, Trigonometric
from rectiflow.rectify.derivative import Direction, along
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.method import Support, two_times
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.sphere import Sphere
from rectiflow.times import Uniform

MEAN, COVARIANCE = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([[1.5, 0.4], [0.4, 0.3]]).double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(path: Interpolant | None = None) -> GaussianFlow:
    return GaussianFlow(MEAN, COVARIANCE, path or Linear())


def averages(exact: GaussianFlow) -> Flow:
    def model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return exact.average_velocity(x, t, until)

    return Flow(model, interpolant=exact.interpolant, average=True)


def points(count: int, gap: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """States and two times, both ways round, away from the ends."""
    x = torch.randn(count, 2, generator=generator(1))
    t, until = 0.05 + 0.9 * torch.rand(2, count, generator=generator(2))
    keep = (t - until).abs() > gap
    return x[keep], t[keep], until[keep]


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), Polynomial(2)], ids=repr)
def test_identity_holds_in_both_directions_of_time(path: Interpolant) -> None:
    """u = v + (r - t) du/dt for jumps forwards and backwards; in the paper's time tau = 1 - t the correction is subtracted."""
    exact = gaussian(path)
    x, t, until = points(200)
    assert (until > t).any()
    assert (until < t).any()
    v = exact.velocity(x, t)
    u, slope = along(averages(exact), x, t, until, {}, Direction(v, 1.0, 0.0))
    torch.testing.assert_close(u, v + (until - t)[:, None] * slope, atol=1e-10, rtol=0)

    def reversed_model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return -exact.average_velocity(x, 1 - t, 1 - until)

    tau, end = 1 - t, 1 - until
    u, slope = along(Flow(reversed_model, average=True), x, tau, end, {}, Direction(-v, 1.0, 0.0))
    torch.testing.assert_close(u, -v - (tau - end)[:, None] * slope, atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
@pytest.mark.parametrize("derivative", ["forward", "difference"])
def test_loss_vanishes_at_the_closed_form_and_nowhere_near_it(path: Interpolant, derivative: str) -> None:
    exact = gaussian(path)
    method = MeanFlow(times=Uniform(), jumps=1.0, power=0.0, derivative=derivative, step=1e-4)
    batch, support = Batch(exact.sample(500, generator())), Support(teacher=exact.flow())
    loss, terms = method.loss(averages(exact), batch, generator(), support=support)
    assert loss < (1e-18 if derivative == "forward" else 1e-11)
    torch.testing.assert_close(terms["error"], loss)

    def wrong(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return exact.average_velocity(x, t, t + 0.9 * (until - t))

    assert method.loss(Flow(wrong, interpolant=path, average=True), batch, generator(), support=support)[0] > 1e-4


def test_without_jumps_it_is_flow_matching() -> None:
    exact, batch = gaussian(), Batch(gaussian().sample(50, generator()))
    method = MeanFlow(times=Uniform(), jumps=0.0, power=0.0, teacher=False)
    flow = averages(exact)
    loss, _ = method.loss(flow, batch, generator(3))
    _, t, _ = two_times(method.times, method.jumps, 50, torch_state := generator(3))
    torch.testing.assert_close(loss, flow.loss(batch.x1, times=t, generator=torch_state), rtol=1e-14, atol=0)


def test_jumps_and_their_times() -> None:
    method = MeanFlow(jumps=0.25)
    jumps, t, until = two_times(method.times, method.jumps, 100_000, generator())
    assert jumps == 25_000
    assert (until[:jumps] > t[:jumps]).all()
    assert torch.equal(until[jumps:], t[jumps:])
    assert {two_times(method.times, method.jumps, 2, generator(seed))[0] for seed in range(20)} == {0, 1}
    still = t[until == t].logit()
    assert abs(float(still.mean()) - 0.4) < 4 / len(still) ** 0.5
    both = torch.cat([t[until > t], until[until > t]]).logit()
    assert abs(float(both.mean()) - 0.4) < 4 / len(both) ** 0.5
    assert abs(float(both.std()) - 1.0) < 4 / (2 * len(both)) ** 0.5


def test_a_power_of_one_makes_all_samples_count_alike() -> None:
    """The gradient of each sample's e / (e + c) with the denominator held is that of log(e + c)."""
    exact = gaussian()
    shift = torch.zeros(2, requires_grad=True)

    def model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return exact.average_velocity(x, t, until) + shift + 0.3

    batch, support = Batch(exact.sample(20, generator())), Support(teacher=exact.flow())
    flow = Flow(model, average=True)
    loss, terms = MeanFlow(jumps=0.0, power=1.0, offset=0.01).loss(flow, batch, generator(), support=support)
    assert loss.item() == pytest.approx(0.09 / 0.1)
    assert terms["error"].item() == pytest.approx(0.09)
    (gradient,) = torch.autograd.grad(loss, shift)
    torch.testing.assert_close(gradient, torch.full((2,), 0.3 / 0.1))


def test_derivative_of_a_network_is_its_central_difference() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)).double()

    def model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return layers(torch.cat([x, t[:, None], until[:, None]], 1))

    flow = Flow(model, average=True)
    x, t, until = points(50)
    direction = Direction(torch.randn(len(x), 2, generator=generator(4)), 1.0, -0.5)
    value, slope = along(flow, x, t, until, {}, direction)
    again, difference = along(flow, x, t, until, {}, direction, derivative="difference", step=1e-4)
    assert torch.equal(value, again)
    torch.testing.assert_close(slope, difference, atol=1e-7, rtol=1e-6)
    assert not slope.requires_grad
    assert value.requires_grad
    _, live = along(flow, x, t, until, {}, direction, differentiable=True)
    assert live.requires_grad


def test_guidance_is_baked_in() -> None:
    """With data alone, the fixed point of the mixed target is the guided velocity, and with a teacher it is the target itself."""
    exact, other = gaussian(), GaussianFlow(MEAN + 2, COVARIANCE)

    def model(x: Tensor, t: Tensor, until: Tensor, label: Tensor) -> Tensor:
        return torch.where(
            label[:, None] == 0, exact.average_velocity(x, t, until), other.average_velocity(x, t, until)
        )

    def velocity(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] == 0, exact.velocity(x, t), other.velocity(x, t))

    teacher = Flow(velocity, null={"label": 1})
    x, t = torch.randn(30, 2, generator=generator()), torch.rand(30, generator=generator(1))
    label = torch.zeros(30, dtype=torch.long)
    expected = 3 * exact.velocity(x, t) - 2 * other.velocity(x, t)

    def guided(x: Tensor, t: Tensor, until: Tensor, label: Tensor) -> Tensor:
        return 3 * exact.velocity(x, t) - 2 * other.velocity(x, t) if label.eq(0).all() else other.velocity(x, t)

    batch = Batch(x, {"label": label})
    method = MeanFlow(jumps=0.0, power=0.0, guidance=3.0)
    student = Flow(guided, null={"label": 1}, average=True)
    assert method.loss(student, batch, generator(), support=Support(teacher=teacher))[0] < 1e-20
    from rectiflow.rectify.method import target_velocity

    draw = student.draw(x, {"label": label}, times=t, generator=generator())
    target = target_velocity(student, draw, None, 3.0)
    torch.testing.assert_close(target, 3 * (draw.x1 - draw.x0) - 2 * other.velocity(draw.xt, t))
    assert expected.shape == target.shape
    with pytest.raises(ConfigError, match="guidance 3 needs a flow with a null condition"):
        method.loss(Flow(guided, average=True), batch, generator(), support=Support(teacher=Flow(velocity)))


def test_products_of_flat_spaces_and_masks() -> None:
    exact = gaussian()

    def model(x: dict[str, Tensor], t: Tensor, until: Tensor) -> dict[str, Tensor]:
        return {name: exact.average_velocity(part, t, until) for name, part in x.items()}

    def velocity(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {name: exact.velocity(part, t) for name, part in x.items()}

    space = Product(weights={"a": 2.0}, a=Euclidean(), b=Euclidean())
    flow = Flow(model, space=space, average=True)
    batch = Batch({name: exact.sample(60, generator(i)) for i, name in enumerate("ab")})
    support = Support(teacher=Flow(velocity, space=space))
    assert MeanFlow(power=0.0).loss(flow, batch, generator(), support=support)[0] < 1e-18

    def tokens(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return x * (until - t)[:, None, None]

    x1 = torch.randn(4, 3, 2, generator=generator())
    mask = torch.tensor([[True, True, False]] * 4)
    filled = x1.clone()
    filled[:, 2] = torch.nan
    losses = [
        MeanFlow(teacher=False).loss(Flow(tokens, average=True), Batch(x, mask=mask), generator())[0]
        for x in (x1, filled)
    ]
    assert torch.equal(*losses)


def test_what_it_cannot_do_is_said() -> None:
    exact, batch = gaussian(), Batch(gaussian().sample(4, generator()))
    with pytest.raises(ConfigError, match="MeanFlow asks a teacher"):
        MeanFlow().loss(averages(exact), batch, generator())
    with pytest.raises(ConfigError, match=r"Sphere\(\) does not allow"):
        MeanFlow().loss(Flow(lambda x, t, until: x, space=Sphere(), average=True), batch, generator())
    with pytest.raises(ConfigError, match="takes no second time"):
        MeanFlow(teacher=False).loss(exact.flow(), batch, generator())
    for wrong, message in [
        ({"jumps": 1.5}, "jumps of MeanFlow is 1.5; allowed: 0 to 1"),
        ({"power": -1.0}, "power -1.0"),
        ({"derivative": "backward"}, "allowed: forward, difference"),
    ]:
        with pytest.raises(ConfigError, match=message):
            MeanFlow(**wrong)  # type: ignore[arg-type]

    class NoForward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    flow = Flow(lambda x, t, until: NoForward.apply(x), average=True)
    with pytest.raises(ConfigError, match="use derivative=difference"):
        MeanFlow(teacher=False).loss(flow, batch, generator())
    MeanFlow(teacher=False, derivative="difference").loss(flow, batch, generator())
