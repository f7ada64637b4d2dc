"""Shortcut models and flow maps on the closed-form flow of a Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric
from rectiflow.rectify.flow_map import FlowMap
from rectiflow.rectify.method import Support
from rectiflow.rectify.shortcut import Shortcut
from rectiflow.sampling import integrate
from rectiflow.spaces.sphere import Sphere

MEAN, COVARIANCE = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([[1.5, 0.4], [0.4, 0.3]]).double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(path: Interpolant | None = None) -> GaussianFlow:
    return GaussianFlow(MEAN, COVARIANCE, path or Linear())


def averages(exact: GaussianFlow) -> Flow:
    def model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return exact.average_velocity(x, t, until)

    return Flow(model, interpolant=exact.interpolant, average=True)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
def test_two_halves_make_the_closed_form_jump(path: Interpolant) -> None:
    exact, method = gaussian(path), Shortcut(levels=8)
    flow = averages(exact)
    start, length = method.draw_jumps(400, generator())
    draw = flow.draw(exact.sample(400, generator()), times=start.double(), generator=generator())
    jump = method.two_jumps(flow, draw, length.double())
    long = length > 2.0**-7
    expected = exact.average_velocity(draw.xt, draw.t, draw.t + length)
    torch.testing.assert_close(jump[long], expected[long], atol=1e-10, rtol=0)
    # The shortest are two steps of Euler's method, an order h from the flow.
    assert 0 < (jump[~long] - expected[~long]).abs().max() < 0.1
    x, h = draw.xt[~long], length[~long, None] / 2
    middle = x + h * exact.velocity(x, draw.t[~long])
    end = middle + h * exact.velocity(middle, draw.t[~long] + h[:, 0])
    torch.testing.assert_close(jump[~long], (end - x) / (2 * h), atol=1e-12, rtol=0)


def test_jumps_compose() -> None:
    """Any grid of jumps of the exact average velocity ends where one jump does."""
    exact = gaussian()
    x0 = torch.randn(50, 2, generator=generator())
    once = integrate(averages(exact), x0, steps=1, method="jump")
    torch.testing.assert_close(once.x, exact.flow_map(x0, torch.zeros(50), torch.ones(50)), atol=1e-10, rtol=0)
    often = integrate(averages(exact), x0, steps=128, method="jump")
    torch.testing.assert_close(often.x, once.x, atol=1e-10, rtol=0)
    assert (once.nfe, often.nfe) == (1, 128)
    back = integrate(averages(exact), once.x, times=torch.tensor([1.0, 0.3, 0.0]), method="jump").x
    torch.testing.assert_close(back, x0, atol=1e-10, rtol=0)
    # Every other solver sees the instantaneous velocity.
    euler = [integrate(flow, x0, steps=3, method="heun").x for flow in (averages(exact), exact.flow())]
    assert torch.equal(*euler)


def test_lengths_and_starts_lie_on_the_grid() -> None:
    start, length = Shortcut(levels=7).draw_jumps(70_000, generator())
    k = -length.log2()
    assert set(k.tolist()) == set(range(7))
    shares = torch.bincount(k.long(), minlength=7) / 70_000
    assert (shares - 1 / 7).abs().max() < 4 * (6 / 49 / 70_000) ** 0.5
    assert torch.equal((start / length).round() * length, start)
    assert (start + length <= 1).all()
    places = torch.bincount((start[k == 2] / 0.25).long(), minlength=4)
    assert (places / places.sum() - 0.25).abs().max() < 4 * (0.1875 / 10_000) ** 0.5


def test_shortcut_loss_vanishes_at_the_closed_form() -> None:
    exact = gaussian()
    flow, support = averages(exact), Support(teacher=exact.flow(), average=averages(exact))
    batch = Batch(exact.sample(64, generator()))
    # 2^-24 is so short that Euler's error in the shortest jumps does not count.
    method = Shortcut(levels=24, bootstrap=0.5)
    loss, terms = method.loss(flow, batch, generator(), support=support)
    assert loss < 1e-10
    assert sum(terms.values()) == pytest.approx(float(loss))

    def wrong(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return exact.average_velocity(x, t, t + 0.9 * (until - t))

    loss, terms = method.loss(Flow(wrong, average=True), batch, generator(), support=support)
    assert loss > 1e-4
    assert terms["instantaneous"] < 1e-20


def test_shortcut_without_jumps_is_flow_matching() -> None:
    exact = gaussian()
    batch = Batch(exact.sample(32, generator()))
    loss, _ = Shortcut(bootstrap=0.0, teacher=False).loss(averages(exact), batch, generator(5))
    state = generator(5)
    torch.rand((), generator=state)
    Shortcut().draw_jumps(0, state)
    times = torch.rand(32, generator=state)
    expected = averages(exact).loss(batch.x1, times=times, generator=state)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)


def test_shortcut_holds_on_a_sphere() -> None:
    """A rotation at constant speed is its own average along great circles about the axis, up to the pull of the sphere."""

    def model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        angle = 0.9 * (until - t)[:, None]
        c, s = angle.cos(), angle.sin()
        turned = torch.cat([c * x[:, :1] - s * x[:, 1:2], s * x[:, :1] + c * x[:, 1:2], x[:, 2:]], 1)
        still = torch.linalg.cross(torch.tensor([0.0, 0.0, 0.9]).expand_as(x), x)
        same = (until == t)[:, None]
        length = torch.where(same, 1.0, (until - t)[:, None])
        return torch.where(same, still, Sphere().log(x, turned) / length)

    flow = Flow(model, space=Sphere(), average=True)
    x1 = Sphere().sample_prior((64, 3), generator(), dtype=torch.float64)
    draw = flow.draw(x1, generator=generator(), times=torch.zeros(64))
    length = torch.full((64,), 0.5)
    jump = Shortcut(levels=7).two_jumps(flow, draw, length)
    torch.testing.assert_close(jump, model(draw.xt, draw.t, draw.t + length), atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
@pytest.mark.parametrize("teacher", [True, False])
def test_flow_map_loss_vanishes_at_the_closed_form(path: Interpolant, teacher: bool) -> None:
    exact = gaussian(path)
    batch = Batch(exact.sample(200, generator()))
    support = Support(teacher=exact.flow() if teacher else None)
    method = FlowMap(jumps=1.0, teacher=teacher)
    loss, terms = method.loss(averages(exact), batch, generator(), support=support)
    assert loss < 1e-18
    assert terms["instantaneous"] == 0

    def wrong(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return exact.average_velocity(x, t, t + 0.9 * (until - t))

    assert method.loss(Flow(wrong, interpolant=path, average=True), batch, generator(), support=support)[0] > 1e-4


def test_flow_map_gradient_goes_through_the_derivative() -> None:
    """u = b (r - t) x: X = x + b (r - t)^2 x, dX/dr = 2 b (r - t) x, against v = 0 of a teacher at rest."""
    b = torch.tensor(0.7, requires_grad=True)
    flow = Flow(lambda x, t, until: b * (until - t)[:, None] * x, average=True)
    teacher = Flow(lambda x, t: torch.zeros_like(x))
    loss, _ = FlowMap(jumps=1.0).loss(flow, Batch(torch.ones(10, 1)), generator(), support=Support(teacher=teacher))
    (gradient,) = torch.autograd.grad(loss, b)
    torch.testing.assert_close(gradient, 2 * loss.detach() / b.detach())
    twice, _ = FlowMap(jumps=1.0, derivative="difference").loss(
        flow, Batch(torch.ones(10, 1)), generator(), support=Support(teacher=teacher)
    )
    torch.testing.assert_close(twice, loss, atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(twice, b)[0], gradient, atol=1e-10, rtol=0)


def test_what_they_cannot_do_is_said() -> None:
    exact, batch = gaussian(), Batch(gaussian().sample(8, generator()))
    with pytest.raises(ConfigError, match="Shortcut takes its targets from the averaged student"):
        Shortcut(bootstrap=1.0, teacher=False).loss(averages(exact), batch, generator())
    with pytest.raises(ConfigError, match="FlowMap asks a teacher"):
        FlowMap().loss(averages(exact), batch, generator())
    with pytest.raises(ConfigError, match="FlowMap adds states"):
        FlowMap(teacher=False).loss(Flow(lambda x, t, until: x, space=Sphere(), average=True), batch, generator())
    with pytest.raises(ConfigError, match="levels of Shortcut is 0"):
        Shortcut(levels=0)
    with pytest.raises(ConfigError, match="bootstrap of Shortcut is 2"):
        Shortcut(bootstrap=2.0)
