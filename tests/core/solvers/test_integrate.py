"""What holds for every solver of the catalogue: options, spaces, memory, recomputed gradients, observers, wrong shapes."""

from __future__ import annotations

import inspect
import math
import re
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import ADAPTIVE, ANY_SPACE, SOLVERS, STOCHASTIC
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere

FIXED = sorted(set(SOLVERS) - ADAPTIVE)


def grid(method: str, steps: int) -> dict[str, Any]:
    """What tells a method how far to go, and its noise."""
    noise = {"generator": torch.Generator().manual_seed(0)} if method in STOCHASTIC else {}
    return noise if method in ADAPTIVE else {"steps": steps, **noise}


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_options_that_a_method_does_not_take_are_refused(method: str) -> None:
    flow, x = Flow(lambda x, t: -x), torch.ones(2, 1)
    options: dict[str, Any] = {
        "rtol": 1e-3,
        "atol": 1e-3,
        "max_nfe": 1000,
        "diffusion": 0.1,
        "last_step": "ode",
        "auxiliary": x,
    }
    taken = set(inspect.signature(SOLVERS[method]).parameters)
    for name, value in options.items():
        if name in taken:
            integrate(flow, x, method=method, **grid(method, 3), **{name: value})
        else:
            with pytest.raises(ConfigError, match=rf"got the option '{name}'; it takes: "):
                integrate(flow, x, method=method, **grid(method, 3), **{name: value})


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_curved_spaces_are_walked_or_refused(method: str) -> None:
    """A rigid rotation of the sphere about the z axis, by 0.9 in all."""
    axis = torch.tensor([0.0, 0.0, 0.9])
    flow = Flow(lambda x, t: torch.linalg.cross(axis.expand_as(x), x), space=Sphere())
    x = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.0, 0.8]])
    if method in ANY_SPACE:
        end = integrate(flow, x, method=method, **grid(method, 100)).x
        c, s = math.cos(0.9), math.sin(0.9)
        expected = x @ torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).mT
        torch.testing.assert_close(end, expected, atol=1e-2 if method in ("euler", "jump") else 1e-4, rtol=0)
    else:
        with pytest.raises(ConfigError, match=r"adds states|approaches data predictions"):
            integrate(flow, x, method=method, **grid(method, 100))


@pytest.mark.parametrize("method", ["ab2", "fireflow", "pseudo_corrector"])
def test_multistep_methods_keep_order_two_on_the_sphere(method: str) -> None:
    axis = torch.tensor([0.3, -0.5, 1.9])
    flow = Flow(lambda x, t: torch.linalg.cross((axis * (1 + t[:, None])).expand_as(x), x), space=Sphere())
    x = torch.nn.functional.normalize(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    turn = torch.linalg.matrix_exp(1.5 * torch.linalg.cross(axis.expand(3, 3), torch.eye(3)).mT)
    truth = x @ turn.mT
    errors = [
        float((integrate(flow, x, steps=n, method=method).x - truth).square().sum(1).mean().sqrt()) for n in (80, 160)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_a_solve_holds_as_many_tensors_at_step_100_as_at_step_10(method: str) -> None:
    """Counts the model's inputs and outputs that are still alive at each call."""

    def most_alive(steps: int) -> int:
        seen: list[weakref.ref[Tensor]] = []
        most = 0

        def model(x: Tensor, t: Tensor) -> Tensor:
            nonlocal most
            velocity = -x * (1 + t[:, None])
            seen[:] = [ref for ref in seen if ref() is not None]
            seen.extend((weakref.ref(x), weakref.ref(velocity)))
            most = max(most, len({id(ref()) for ref in seen}))
            return velocity

        tight: dict[str, Any] = {"rtol": 10.0 ** -(steps // 10), "atol": 1e-10} if method in ADAPTIVE else {}
        integrate(Flow(model), torch.ones(2, 1), method=method, **grid(method, steps), **tight)
        return most

    rejected = 2 if method in ADAPTIVE else 0  # a rejected attempt is still there while the next one is made
    assert most_alive(100) <= most_alive(10) + rejected


class Network(nn.Module):
    """Keeps weak references to its hidden activations."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(3, 16, generator=generator) / 2)
        self.outer = nn.Parameter(torch.randn(16, 2, generator=generator) / 4)
        self.hidden: list[weakref.ref[Tensor]] = []
        self.alive = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = torch.tanh(torch.cat([x, t[:, None]], 1) @ self.inner)
        self.hidden = [ref for ref in self.hidden if ref() is not None] + [weakref.ref(hidden)]
        self.alive = max(self.alive, len(self.hidden))
        velocity: Tensor = hidden @ self.outer
        return velocity


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_recomputed_gradients_equal_plain_ones_with_one_evaluations_activations(method: str) -> None:
    gradients, alive, costs = [], [], []
    for checkpoint in (False, True):
        network = Network()
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        found = integrate(
            Flow(network), x, method=method, differentiable=True, checkpoint=checkpoint, **grid(method, 12)
        )
        found.x.square().sum().backward()
        gradients.append([x.grad, network.inner.grad, network.outer.grad])
        alive.append(network.alive)
        costs.append(found.nfe)
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        assert bool(plain.any())
        torch.testing.assert_close(recomputed, plain, atol=1e-12, rtol=0)
    assert alive[0] >= 12
    assert alive[1] <= 2
    assert costs[0] == costs[1]


def test_the_gradient_of_exponential_growth() -> None:
    """dx/dt = theta x: d x(1) / d theta = x0 e^theta, 3.02062906 for x0 = 1.5, theta = 0.7."""
    theta = torch.tensor(0.7, requires_grad=True)
    for checkpoint in (False, True):
        end = integrate(
            Flow(lambda x, t: theta * x),
            torch.tensor([[1.5]]),
            steps=50,
            method="rk4",
            differentiable=True,
            checkpoint=checkpoint,
        ).x
        (slope,) = torch.autograd.grad(end.sum(), theta)
        assert float(slope) == pytest.approx(1.5 * math.exp(0.7), rel=1e-6)
    with pytest.raises(ConfigError, match="checkpoint without differentiable"):
        integrate(Flow(lambda x, t: x), torch.ones(1, 1), steps=2, checkpoint=True)


@pytest.mark.parametrize("method", sorted(set(FIXED) - {"implicit_midpoint"}))
def test_a_nan_names_a_step_for_every_method(method: str) -> None:
    """The model breaks from t = 0.5 on: in step 6 of 10, or already in the stage of step 5 that looks ahead."""
    flow = Flow(lambda x, t: torch.where(t[:, None] > 0.499, torch.nan, -x))
    ahead = method in {"heun", "rk4", "pseudo_corrector", "stochastic_heun", "reversible_heun", "unipc", "flow_turbo"}
    with pytest.raises(NonFiniteError, match=f"at step {5 if ahead else 6} of 10"):
        integrate(flow, torch.ones(2, 1), method=method, **grid(method, 10))


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_same_start_same_bits(method: str) -> None:
    flow, x = Flow(lambda x, t: torch.sin(3 * x) * t[:, None]), torch.linspace(-1, 1, 6).reshape(3, 2)
    before = x.clone()
    ends = [integrate(flow, x, method=method, **grid(method, 5)).x for _ in range(2)]
    assert torch.equal(*ends)
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", sorted(SOLVERS))
@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,)])
def test_an_output_that_would_be_broadcast_is_refused(method: str, shape: tuple[int, ...]) -> None:
    flow = Flow(lambda x, t: torch.zeros(shape))
    with pytest.raises(ConfigError, match=rf"velocity of shape {re.escape(str(shape))} at a state .* must be \(2, 3\)"):
        integrate(flow, torch.ones(2, 3), method=method, **grid(method, 2))


def test_outputs_on_curved_spaces_have_the_shape_of_tangents() -> None:
    x = SO3().sample_prior((2, 4), torch.Generator().manual_seed(0))
    assert integrate(Flow(lambda x, t: torch.ones(2, 3), space=SO3()), x, steps=2).x.shape == (2, 4)
    assert integrate(Flow(lambda x, t: x, predicts="data", space=SO3()), x, steps=2).x.shape == (2, 4)
    with pytest.raises(
        ConfigError, match=r"velocity of shape \(2, 4\) at a state of shape \(2, 4\); it must be \(2, 3\)"
    ):
        integrate(Flow(lambda x, t: x, space=SO3()), x, steps=2)
    both = Flow(lambda x, t: {"a": x["a"]}, space=Product(a=Euclidean(), q=SO3()))
    with pytest.raises(ConfigError, match=r"shape \{'a': \(2, 1\)\} at a state"):
        integrate(both, {"a": torch.ones(2, 1), "q": x}, steps=2)


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_every_solver_shows_step_time_state_and_velocity(method: str) -> None:
    """dx/dt = 2, by which every slope, carried over or not, is 2 and every state on the way x0 + 2 t."""
    seen: list[tuple[int, float, float, float]] = []
    still = {"diffusion": 0.0, "generator": torch.Generator().manual_seed(0)} if method in STOCHASTIC else {}
    options: dict[str, Any] = {"times": torch.tensor([0.0, 0.25, 0.625, 1.0]), **still}
    found = integrate(
        Flow(lambda x, t: torch.full_like(x, 2.0)),
        torch.full((1, 1), -1.0),
        method=method,
        observe=lambda step, t, x, v: seen.append((step, t, float(x), float(v))),
        trajectory=True,
        **options,
    )
    expected = [(0, 0.0, -1.0, 2.0), (1, 0.25, -0.5, 2.0), (2, 0.625, 0.25, 2.0)]
    assert seen == [pytest.approx(row, abs=1e-12) for row in expected]
    assert found.trajectory is not None
    assert [float(x) for x in found.trajectory] == pytest.approx([-1.0, -0.5, 0.25, 1.0])
