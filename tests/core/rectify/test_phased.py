"""Pieces: first-order paths through two states, and the student that is straight on each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Linear, Polynomial, Trigonometric, VariancePreserving
from rectiflow.rectify.method import Support
from rectiflow.rectify.phased import Phased, Piece, first_order_path
from rectiflow.sampling import integrate
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.sphere import Sphere


@pytest.mark.parametrize("path", [Linear(), Polynomial(2), Trigonometric(), VariancePreserving()])
def test_first_order_path_passes_through_both_ends_at_its_own_velocity(path: Any) -> None:
    start, reached = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    piece = Piece(start, 0.2, reached, 0.7)

    def at(time: float) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = first_order_path(Euclidean(), path, piece, torch.tensor([time]))
        return found

    assert torch.allclose(at(0.2)[0], start, atol=1e-12)
    assert torch.allclose(at(0.7)[0], reached, atol=1e-12)
    for time in (0.25, 0.6):
        slope = (at(time + 1e-6)[0] - at(time - 1e-6)[0]) / 2e-6
        assert torch.allclose(at(time)[1], slope, atol=1e-7)
    # Ends are constant along it: the flow through them is first-order.
    c = path.coefficients(torch.tensor([0.3, 0.6]))
    states = torch.cat([at(0.3)[0], at(0.6)[0], start])
    solved = torch.linalg.solve(torch.stack([c.a, c.s], 1), states[:2])
    first = path.coefficients(torch.tensor([0.2]))
    assert torch.allclose(first.a * solved[0] + first.s * solved[1], states[2], atol=1e-10)


def test_whole_path_is_reflow() -> None:
    start, reached = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    t = torch.rand(5, generator=torch.Generator().manual_seed(1))
    for path in (Linear(), Trigonometric()):
        found = first_order_path(Euclidean(), path, Piece(start, 0.0, reached, 1.0), t)
        same = Euclidean().path(start, reached, t, path)
        for mine, theirs in zip(found, same, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)


def test_geodesics_on_the_sphere() -> None:
    space = Sphere()
    start, reached = space.sample_prior((2, 6, 3), torch.Generator().manual_seed(0))
    t = torch.full((6,), 0.5)
    state, velocity = first_order_path(space, Linear(), Piece(start, 0.25, reached, 0.75), t)
    assert torch.allclose(state, space.interpolate(start, reached, torch.full((6,), 0.5)), atol=1e-12)
    assert torch.allclose(velocity.norm(dim=1), 2 * space.distance(start, reached), atol=1e-12)
    with pytest.raises(ConfigError, match="no geodesic"):
        first_order_path(space, Trigonometric(), Piece(start, 0.25, reached, 0.75), t)


def piecewise(oracle: Any, path: Any, times: tuple[float, ...]) -> Flow:
    """The flow that follows the first-order path between exact states of the Gaussian flow at the times of a grid.

    Carried from r to q each coordinate moves as x_q = A x_r + B, so that x_t is affine in x_r too, and x_r follows from x_t.
    """
    exact = oracle.gaussian(path)

    def model(x: Tensor, t: Tensor) -> Tensor:
        velocity = torch.empty_like(x)
        for row in range(len(x)):
            k = max(i for i, time in enumerate(times[:-1]) if time <= float(t[row]))
            begin, end = times[k], times[k + 1]
            basis = torch.stack([torch.zeros(3), torch.ones(3)])  # x_r = 0 and 1, to read off A and B
            far = exact.flow_map(basis, torch.full((2,), begin), torch.full((2,), end))
            states, speeds = first_order_path(Euclidean(), path, Piece(basis, begin, far, end), t[row].expand(2))
            inner = (x[row] - states[0]) / (states[1] - states[0])
            velocity[row] = speeds[0] + inner * (speeds[1] - speeds[0])
        return velocity

    return Flow(model, interpolant=path)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_zero_at_the_piecewise_flow_and_its_sampler_is_exact(oracle: Any, path: Any) -> None:
    times = (0.0, 0.3, 0.8, 1.0)
    student, teacher = piecewise(oracle, path, times), oracle.gaussian(path).flow()
    method = Phased(times=times, solver="rk4", solver_steps=40)
    for seed in range(4):
        loss, _ = method.loss(student, oracle.data(60), oracle.seeded(seed), support=Support(teacher))
        assert float(loss) < 1e-11
        other, _ = method.loss(teacher, oracle.data(60), oracle.seeded(seed), support=Support(teacher))
        assert float(other) > 1e-4
    solver = "euler" if isinstance(path, Linear) else "ddim"
    found = integrate(student, oracle.noise(20), times=torch.tensor(times), method=solver)
    assert found.nfe == 3
    assert torch.allclose(found.x, oracle.pairs(20).x1, atol=1e-9)


def test_teacher_is_guided_and_gets_conditions() -> None:
    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return label[:, None] * torch.ones_like(x)

    student = Flow(lambda x, t, label: torch.zeros_like(x))
    batch = Batch(x1=torch.zeros(4, 2), cond={"label": torch.full((4,), 2.0)})
    support = Support(Flow(model, null={"label": 0.0}))
    loss, _ = Phased(guidance=3.0).loss(student, batch, torch.Generator().manual_seed(0), support=support)
    assert float(loss) == pytest.approx(36.0)


def test_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="pieces cover 0 to 1"):
        Phased(times=(0.0, 0.5))
    with pytest.raises(ConfigError, match="strictly"):
        Phased(times=(0.0, 0.5, 0.5, 1.0))
    with pytest.raises(ConfigError, match="solver_steps is 0"):
        Phased(solver_steps=0)
    with pytest.raises(ConfigError, match="'eulr'"):
        Phased(solver="eulr")
    with pytest.raises(ConfigError, match="asks a teacher"):
        Phased().loss(oracle.rectified(), oracle.data(4), oracle.seeded())
