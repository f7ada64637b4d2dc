"""Solvers on curved spaces: flows with closed-form solutions, textbook orders, and the way back."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate, invert, sample
from rectiflow.solvers.catalogue import ANY_SPACE, check_solver
from rectiflow.spaces import quaternions
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.riemannian import Riemannian
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.torus import Torus

ORDERS = {
    "euler": (0.85, 1.15),
    "midpoint": (1.85, 2.20),
    "heun": (1.85, 2.20),
    "flow_turbo": (1.85, 2.20),
    "rk4": (3.7, 4.3),
    "ab2": (1.85, 2.25),
    "fireflow": (1.85, 2.30),
    "pseudo_corrector": (1.85, 2.25),
    "implicit_midpoint": (1.85, 2.20),
}
SPIN, TILT = 1.3, 2.1
every_solver = pytest.mark.parametrize("method", sorted(ORDERS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def about(angle: Tensor, axis: int) -> Tensor:
    """Rotation by angles (B,) about a coordinate axis, straight from sine and cosine."""
    q = torch.zeros(len(angle), 4)
    q[:, 0], q[:, 1 + axis] = torch.cos(angle / 2), torch.sin(angle / 2)
    return q


def precession(t: Tensor) -> Tensor:
    """World rotation (B, 4) of a body that tilts about x while x itself spins about z: Q(t) = Z(spin t) X(tilt t)."""
    return quaternions.multiply(about(SPIN * t, 2), about(TILT * t, 0))


def world_velocity(t: Tensor) -> Tensor:
    """Angular velocity of the precession in the world frame: spin about z, and tilt about the spun x axis."""
    zero = torch.zeros_like(t)
    tilt = TILT * torch.stack((torch.cos(SPIN * t), torch.sin(SPIN * t), zero), -1)
    return tilt + torch.stack((zero, zero, zero + SPIN), -1)


def body_velocity(q: Tensor, t: Tensor) -> Tensor:
    return quaternions.rotate(quaternions.conjugate(q), world_velocity(t))


def point_velocity(x: Tensor, t: Tensor) -> Tensor:
    return torch.linalg.cross(world_velocity(t), x)


def uphill(x: Tensor, t: Tensor) -> Tensor:
    """The gradient of the height z on the sphere, speeding up with time: z(t) = tanh(artanh z0 + t + t^2 / 2)."""
    return (1 + t)[:, None] * torch.tensor([0.0, 0.0, 1.0]).expand_as(x)


def climbed(x0: Tensor) -> Tensor:
    z = torch.tanh(torch.atanh(x0[:, 2]) + 1.5)
    across = x0[:, :2] / x0[:, :2].norm(dim=1, keepdim=True)
    return torch.cat((across * torch.sqrt(1 - z.square())[:, None], z[:, None]), 1)


Problem = tuple[Riemannian, Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]


def problem(name: str) -> Problem:
    one = torch.ones(32)
    if name == "precession of rotations":
        q0 = SO3().sample_prior((32, 4), seeded(1))
        return SO3(), body_velocity, q0, quaternions.multiply(precession(one), q0)
    x0 = Sphere().sample_prior((32, 3), seeded(1))
    if name == "precession of points":
        return Sphere(), point_velocity, x0, quaternions.rotate(precession(one), x0)
    return Sphere(), uphill, x0, climbed(x0)


PROBLEMS = ("precession of rotations", "precession of points", "uphill")


@every_solver
@pytest.mark.parametrize("name", PROBLEMS)
def test_orders_are_those_of_flat_space(name: str, method: str) -> None:
    space, model, x0, truth = problem(name)
    errors = [
        float(space.distance(integrate(Flow(model, space=space), x0, steps=n, method=method).x, truth).square().mean())
        for n in (40, 80)
    ]
    low, high = ORDERS[method]
    assert low <= math.log2(errors[0] / errors[1]) / 2 <= high
    assert errors[1] ** 0.5 < {1: 0.1, 2: 5e-3, 4: 1e-5}[round((low + high) / 2)]


@every_solver
@pytest.mark.parametrize("name", PROBLEMS)
def test_running_back_returns_to_the_source(name: str, method: str) -> None:
    space, model, x0, truth = problem(name)
    flow = Flow(model, space=space)
    back = invert(flow, truth, steps=80, method=method)
    assert float(space.distance(back, x0).max()) < {"euler": 0.3, "rk4": 1e-6}.get(method, 2e-2)
    assert float((back.norm(dim=-1) - 1).abs().max()) < 1e-12


@every_solver
def test_one_step_is_exact_on_geodesics(method: str) -> None:
    x0, v = SO3().sample_prior((16, 5, 4), seeded(1)), torch.randn(16, 5, 3, generator=seeded(2))
    end = integrate(Flow(lambda x, t: v, space=SO3()), x0, steps=1, method=method).x
    assert float(SO3().distance(end, quaternions.multiply(x0, quaternions.exp(v))).max()) < 1e-13
    for space, shape in ((Sphere(), (16, 4)), (SO3(), (16, 5, 4)), (Torus(), (16, 3))):
        x, y = (space.sample_prior(shape, seeded(seed)) for seed in (3, 4))
        for steps in (1, 2, 7):
            straight = Flow(lambda z, t, y=y: y, predicts="data", space=space)
            if method in (
                "euler",
                "midpoint",
                "fireflow",
            ):  # the others evaluate at t = 1, where data gives no velocity
                assert float(space.distance(integrate(straight, x, steps=steps, method=method).x, y).max()) < 1e-10


def test_states_stay_on_the_space_for_a_thousand_steps_in_single_precision() -> None:
    q0 = SO3().sample_prior((2, 4), seeded(1), dtype=torch.float32)
    end = integrate(Flow(lambda q, t: body_velocity(q, 10 * t), space=SO3()), q0, steps=1000, method="heun").x
    assert float((end.norm(dim=1) - 1).abs().max()) < 5e-7


def test_every_solver_that_claims_any_space_is_tested_here() -> None:
    elsewhere = {"rf_solver", "jump"}  # midpoint again; for average velocities
    assert set(ORDERS) | {"dopri5"} == ANY_SPACE - elsewhere


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_adaptive_solver_keeps_its_tolerance_and_its_order(name: str) -> None:
    space, model, x0, truth = problem(name)
    flow = Flow(model, space=space)
    errors, costs = [], []
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-11):
        solution = integrate(flow, x0, method="dopri5", rtol=tolerance, atol=tolerance)
        errors.append(float(space.distance(solution.x, truth).square().mean().sqrt()))
        costs.append(solution.nfe)
        assert errors[-1] < 20 * tolerance
    assert costs == sorted(set(costs))
    assert 4.5 < math.log(errors[2] / errors[3]) / math.log(costs[3] / costs[2]) < 6.5
    back = integrate(flow, truth, times=torch.tensor([1.0, 0.0]), method="dopri5", rtol=1e-8, atol=1e-8).x
    assert float(space.distance(back, x0).max()) < 1e-6


def test_between_its_steps_the_adaptive_solver_is_on_the_curve() -> None:
    space, model, q0, _ = problem("precession of rotations")
    times = torch.linspace(0, 1, 23)
    seen: list[tuple[float, Tensor, Tensor]] = []
    flow = Flow(model, space=space)
    solution = integrate(
        flow, q0, times=times, method="dopri5", rtol=1e-7, atol=1e-7, observe=lambda i, t, x, v: seen.append((t, x, v))
    )
    assert solution.nfe >= 21
    for t, q, v in seen:
        now = torch.full((32,), t)
        assert float(space.distance(q, quaternions.multiply(precession(now), q0)).max()) < 2e-6
        torch.testing.assert_close(v, body_velocity(q, now), rtol=0, atol=1e-6)
    assert [t for t, _, _ in seen] == times[:-1].tolist()


def test_a_product_of_flat_and_curved_is_solved_to_one_tolerance() -> None:
    space = Product(place=Euclidean(), turn=SO3())
    q0, x0 = SO3().sample_prior((16, 4), seeded(1)), torch.randn(16, 3, generator=seeded(2))

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"place": -x["place"], "turn": body_velocity(x["turn"], t)}

    end = integrate(Flow(model, space=space), {"place": x0, "turn": q0}, method="dopri5", rtol=1e-7, atol=1e-7).x
    torch.testing.assert_close(end["place"], x0 * math.exp(-1), rtol=0, atol=1e-6)
    truth = quaternions.multiply(precession(torch.ones(16)), q0)
    assert float(SO3().distance(end["turn"], truth).max()) < 1e-6


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_implicit_midpoint_rule_undoes_itself(name: str) -> None:
    space, model, x0, truth = problem(name)
    flow = Flow(model, space=space)
    forwards = integrate(flow, x0, steps=8, method="implicit_midpoint").x
    assert float(space.distance(forwards, truth).max()) > 1e-4
    assert float(space.distance(invert(flow, forwards, steps=8, method="implicit_midpoint"), x0).max()) < 1e-12


@every_solver
def test_a_torus_is_flat_space_rolled_up(method: str) -> None:
    space, x0 = Torus(2.0), Torus(2.0).sample_prior((16, 3), seeded(1))

    def model(x: Tensor, t: Tensor) -> Tensor:
        return 3 * torch.sin(math.pi * x) + 5 + t[:, None] * torch.cos(math.pi * x.roll(1, 1))

    rolled = integrate(Flow(model, space=space), x0, steps=12, method=method).x
    flat = integrate(Flow(model), x0, steps=12, method=method).x
    assert float(space.distance(rolled, space.project(flat)).max()) < 1e-12
    assert bool(((rolled >= 0) & (rolled < 2)).all())
    assert float((flat - x0).abs().max()) > 2


@every_solver
def test_a_product_moves_its_components_as_they_move_alone(method: str) -> None:
    space = Product(place=Euclidean(), turn=SO3(), point=Sphere(), weights={"turn": 0.1})
    x0 = space.sample_prior({"place": (8, 2, 3), "turn": (8, 4), "point": (8, 3)}, seeded(1))

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {
            "place": -x["place"],
            "turn": body_velocity(x["turn"], t),
            "point": uphill(x["point"], t),
        }

    together = integrate(Flow(model, space=space), x0, steps=6, method=method)
    alone = {
        "place": integrate(Flow(lambda x, t: -x), x0["place"], steps=6, method=method).x,
        "turn": integrate(Flow(body_velocity, space=SO3()), x0["turn"], steps=6, method=method).x,
        "point": integrate(Flow(uphill, space=Sphere()), x0["point"], steps=6, method=method).x,
    }
    for name, state in alone.items():
        torch.testing.assert_close(together.x[name], state, rtol=0, atol=1e-14)


@pytest.mark.parametrize("space", [Sphere(), SO3(), Torus(), Product(turn=SO3(), place=Euclidean())])
@pytest.mark.parametrize("method", ["dpm++2m", "unipc", "reversible_heun"])
def test_solvers_that_add_states_are_refused_by_name(space: Riemannian | Product, method: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{re.escape(method)}'.*{type(space).__name__}.*rk4"):
        check_solver(method, space, {})


@pytest.mark.parametrize("method", ["midpoint", "heun", "rk4"])
@pytest.mark.parametrize("space", [Sphere(), SO3()])
def test_a_few_huge_steps_stay_finite(space: Riemannian, method: str) -> None:
    """One step of a network that predicts data far away, and of an untrained one that puts out nonsense."""
    x, y = (space.sample_prior((200, 4), seeded(seed)) for seed in (1, 2))
    towards = Flow(lambda x, t: y, predicts="data", space=space)
    width = 3 if isinstance(space, SO3) else 4
    wild = Flow(lambda x, t: 40 * torch.sin(9 * x[:, :width] + t[:, None]), space=space)
    for flow, steps in itertools.product((towards, wild), (1, 2)):
        end = integrate(flow, x, steps=steps, method=method).x
        torch.testing.assert_close(end.norm(dim=1), torch.ones(200))


def test_gradients_pass_through_a_solve() -> None:
    rate = torch.tensor(0.3, requires_grad=True)
    q0 = SO3().sample_prior((4, 4), seeded(1))

    def end(value: Tensor) -> Tensor:
        flow = Flow(lambda q, t: value * body_velocity(q, t), space=SO3())
        turned = integrate(flow, q0, steps=4, method="rk4", differentiable=True).x
        return quaternions.to_matrix(turned)

    assert torch.autograd.gradcheck(end, (rate,), atol=1e-7)


def test_sampling_draws_from_the_spaces_prior_and_lands_on_the_data() -> None:
    target = SO3().sample_prior((1, 4), seeded(5))
    flow = Flow(lambda q, t: target.expand_as(q), predicts="data", space=SO3())
    for steps in (1, 3, 10):
        q = sample(flow, (50, 4), steps=steps, generator=seeded(1))
        assert float(SO3().distance(q, target).max()) < 1e-10
    first, second = (sample(flow, (50, 4), times=torch.tensor([0.0, 0.5]), generator=seeded(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert float(SO3().distance(first, target).max()) > 1
