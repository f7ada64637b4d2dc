"""The refiner's loss: zero for an exact one, without a gradient for anything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.method import Support
from rectiflow.rectify.refiner import FlowTurbo
from rectiflow.spaces.sphere import Sphere


class Refined(nn.Module):
    """A flow with a refiner that misses by a parameter."""

    def __init__(self, velocity: Any) -> None:
        super().__init__()
        self.velocity = velocity
        self.speed = nn.Parameter(torch.ones(()))
        self.error = nn.Parameter(torch.tensor(0.1))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, velocity: Tensor | None = None) -> Tensor:
        true: Tensor = self.speed * self.velocity(x, t)
        if velocity is None:
            return true
        self.seen.append((x, t, velocity))
        return self.velocity(x, t) - velocity + self.error  # type: ignore[no-any-return]


def test_exact_refiner_has_no_loss_and_only_the_refiner_a_gradient(oracle: Any) -> None:
    exact = oracle.gaussian()
    network = Refined(exact.velocity)
    method = FlowTurbo(reach=0.3)
    flow = method.student(Flow(network))
    assert flow.refines
    loss, _ = method.loss(flow, oracle.data(500), oracle.seeded(), support=Support(exact.flow()))
    loss.backward()
    assert loss.item() == pytest.approx(0.01, rel=1e-9)
    assert network.error.grad is not None
    assert network.error.grad.item() == pytest.approx(0.2, rel=1e-9)
    assert network.speed.grad is None
    x, t, before = network.seen[0]
    assert float(t.min()) >= 0
    assert float(t.max()) <= 1
    # What it starts from is the velocity of a place at most `reach` before: undoing a step of the right length finds it.
    gaps = torch.linspace(0, 0.3, 3001)[:, None, None]
    starts = (t[None, :] - gaps[..., 0]).clamp(min=0)
    candidates = x - gaps * before
    velocities = torch.stack([exact.velocity(c, s) for c, s in zip(candidates, starts, strict=True)])
    nearest = (velocities - before).norm(dim=-1).amin(0)
    assert float(nearest.max()) < 2e-3


def test_guided_teacher() -> None:
    def teach(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return label[:, None] * t[:, None] * torch.ones_like(x)

    def model(x: Tensor, t: Tensor, label: Tensor, velocity: Tensor) -> Tensor:
        return 3 * label[:, None] * t[:, None] - velocity

    support = Support(Flow(teach, null={"label": 0.0}))
    batch = Batch(x1=torch.zeros(20, 2), cond={"label": torch.full((20,), 2.0)})
    loss, _ = FlowTurbo(guidance=3.0).loss(Flow(model), batch, torch.Generator().manual_seed(0), support=support)
    assert float(loss) < 1e-20


def test_curved_space() -> None:
    axis = torch.tensor([0.3, -1.0, 0.8])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return (1 + t[:, None]) * torch.linalg.cross(axis.expand_as(x), x)

    network = Refined(velocity)
    x1 = Sphere().sample_prior((30, 3), torch.Generator().manual_seed(0))
    teacher = Flow(velocity, space=Sphere())
    loss, _ = FlowTurbo(reach=0.5).loss(
        Flow(network, space=Sphere()), Batch(x1), torch.Generator().manual_seed(0), support=Support(teacher)
    )
    tangent = 0.01 / 3 * 2  # of a constant error only what lies in the tangent plane counts, two thirds on average
    assert float(loss.detach()) == pytest.approx(tangent, rel=0.3)


def test_refused(oracle: Any) -> None:
    for reach in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"reach is {reach}"):
            FlowTurbo(reach=reach)
    with pytest.raises(ConfigError, match="asks a teacher"):
        FlowTurbo().loss(oracle.rectified(), oracle.data(4), oracle.seeded())
