"""Rotations in a flow: angles from nothing to almost a half turn, both names of a rotation, matrices as the other way round."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow.flow import Flow
from rectiflow.interpolants import Exponential
from rectiflow.sampling import integrate
from rectiflow.schedules import scheduled
from rectiflow.spaces import quaternions
from rectiflow.spaces.so3 import SO3

SPACE = SO3()
ANGLES = [0.0, 1e-7, 1e-4, 1e-2, 1.0, 3.0, math.pi - 1e-2, math.pi - 1e-3]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotations(count: int, seed: int) -> Tensor:
    return SPACE.sample_prior((count, 4), seeded(seed))


def of_angle(angle: float, count: int, seed: int) -> Tensor:
    v = torch.randn(count, 3, generator=seeded(seed))
    return angle * v / v.norm(dim=1, keepdim=True)


def as_scipy(q: Tensor) -> Rotation:
    return Rotation.from_quat(q.double().numpy()[..., [1, 2, 3, 0]])


def test_algebra_to_the_last_digit() -> None:
    q, p = rotations(2000, 1), rotations(2000, 2)
    one = quaternions.multiply(q, quaternions.conjugate(q))
    torch.testing.assert_close(one, torch.tensor([1.0, 0, 0, 0]).expand_as(one), rtol=0, atol=1e-14)
    product = quaternions.to_matrix(q) @ quaternions.to_matrix(p)
    torch.testing.assert_close(quaternions.to_matrix(quaternions.multiply(q, p)), product, rtol=0, atol=1e-14)


@pytest.mark.parametrize("angle", [*ANGLES, math.pi - 1e-6])
def test_log_undoes_exp_at_every_angle(angle: float) -> None:
    v = of_angle(angle, 2000, 1)
    torch.testing.assert_close(quaternions.log(quaternions.exp(v)), v, rtol=0, atol=1e-12)
    if angle <= math.pi - 1e-3:
        single = v.float()
        assert float((quaternions.log(quaternions.exp(single)) - single).norm(dim=1).max()) < 1e-6


@pytest.mark.parametrize("angle", ANGLES)
def test_geodesics_are_scipys_at_every_angle(angle: float) -> None:
    q, v, t = rotations(500, 1), of_angle(angle, 500, 2), torch.rand(500, generator=seeded(3))
    p = quaternions.multiply(q, quaternions.exp(v))
    start, turn = as_scipy(q), as_scipy(q).inv() * as_scipy(p)
    expected = start * Rotation.from_rotvec(t[:, None].numpy() * turn.as_rotvec())
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        middle = SPACE.interpolate(q.to(dtype), p.to(dtype), t.to(dtype))
        assert (as_scipy(middle).inv() * expected).magnitude().max() < bound
    halves = [SPACE.interpolate(q, p, torch.full((500,), share)) for share in (0.2, 0.7)]
    np.testing.assert_allclose(SPACE.distance(*halves).numpy(), 0.5 * angle, rtol=1e-6, atol=1e-12)
    assert torch.equal(SPACE.interpolate(q, p, torch.zeros(500)), quaternions.normalize(q))


def test_neither_name_of_a_rotation_reaches_loss_or_sample() -> None:
    """Random signs on x0, x1 and the network's answer, in float32; the network reads matrices and answers by a turn."""

    def model(q: Tensor, t: Tensor, sign: Tensor) -> Tensor:
        matrix = quaternions.to_matrix(q)
        turn = torch.sin(3 * matrix[..., 0]) + t[:, None] * matrix[..., 1]
        return sign[:, None] * quaternions.multiply(q, quaternions.exp(turn))

    flow = Flow(model, predicts="data", space=SPACE)
    x0, x1 = (rotations(64, seed).float() for seed in (1, 2))
    losses, ends = [], []
    for seed in range(4):
        signs = 2.0 * torch.randint(0, 2, (3, 64), generator=seeded(seed), dtype=torch.float32) - 1
        signs = signs if seed else torch.ones(3, 64, dtype=torch.float32)
        a, b, cond = signs[0, :, None] * x0, signs[1, :, None] * x1, {"sign": signs[2]}
        losses.append(flow.loss(b, cond, x0=a, generator=seeded(5)))
        for run in (flow, scheduled(flow, Exponential(10.0))):
            ends.append(quaternions.to_matrix(integrate(run, a, steps=10, method="ddim", cond=cond).x))
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(4), rtol=0, atol=1e-6)
    for i in range(2):
        for end in ends[i::2]:
            torch.testing.assert_close(end, ends[i], rtol=0, atol=1e-6)


def test_angular_velocity_is_the_derivative_along_the_path() -> None:
    q0, q1, h = rotations(200, 1), rotations(200, 2), 1e-5
    t = 0.1 + 0.8 * torch.rand(200, generator=seeded(3))
    flow = Flow(lambda q, t: q, space=SPACE)
    qt, omega = SPACE.path(q0, q1, t, flow.interpolant)
    numeric = (SPACE.interpolate(q0, q1, t + h) - SPACE.interpolate(q0, q1, t - h)) / (2 * h)
    pure = torch.cat((torch.zeros(200, 1), omega), 1)
    torch.testing.assert_close(numeric, quaternions.multiply(qt, pure) / 2, rtol=0, atol=1e-8)
    torch.testing.assert_close(omega * (1 - t)[:, None], SPACE.log(qt, q1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_a_whole_solve_is_that_of_rotation_matrices(schedule: str) -> None:
    """R <- R exp(share log(R^T R1)) by scipy, 50 steps towards an oracle."""
    q0, q1 = rotations(100, 1), rotations(100, 2)
    times = torch.linspace(0.01, 1, 51)
    flow = Flow(lambda q, t: q1.to(q), predicts="data", space=SPACE)
    flow = scheduled(flow, Exponential(10.0)) if schedule == "exponential" else flow
    solution = integrate(flow, q0, times=times, method="ddim", trajectory=True)
    single = integrate(flow, q0.float(), times=times, method="ddim", trajectory=True)
    matrix, target = as_scipy(q0).as_matrix(), as_scipy(q1).as_matrix()
    assert solution.trajectory is not None
    assert single.trajectory is not None
    for i in range(50):
        t, t_next = float(times[i]), float(times[i + 1])
        share = (t_next - t) / (1 - t) if schedule == "linear" else 1 - math.exp(-10 * (t_next - t))
        rest = Rotation.from_matrix(np.swapaxes(matrix, 1, 2) @ target).as_rotvec()
        matrix = matrix @ Rotation.from_rotvec(share * rest).as_matrix()
        assert np.abs(quaternions.to_matrix(solution.trajectory[i + 1]).numpy() - matrix).max() < 1e-9
        assert np.abs(quaternions.to_matrix(single.trajectory[i + 1]).numpy() - matrix).max() < 1e-4


def test_five_hundred_steps_in_single_precision_stay_of_unit_length() -> None:
    q0, q1 = (rotations(64, seed).float() for seed in (1, 2))
    flow = scheduled(Flow(lambda q, t: q1, predicts="data", space=SPACE), Exponential(0.1))
    end = integrate(flow, q0, steps=500, method="ddim").x
    assert end.dtype is torch.float32
    assert float((end.norm(dim=1) - 1).abs().max()) < 1e-6


def test_gradients_are_finite_where_the_log_is_special() -> None:
    """At the identity, at the target, at its other name and half a turn away; and a right answer costs exactly nothing."""
    q = rotations(1, 1)
    half = quaternions.multiply(q, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    identity = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    for at, target, answer in ((q, q, q), (q, -q, q), (q, half, half), (q, q, half), (identity, identity, identity)):
        guess = answer.clone().requires_grad_(True)
        loss = SPACE.residual(guess, target, "data", at).square().sum()
        (gradient,) = torch.autograd.grad(loss, guess)
        assert bool(torch.isfinite(gradient).all())
        assert bool(torch.isfinite(loss))
    for dtype in (torch.float32, torch.float64):
        at, target = rotations(500, 2).to(dtype), rotations(500, 3).to(dtype)
        assert float(SPACE.residual(target, target, "data", at).abs().max()) == 0
