"""Students with the scale of guidance as an input, on a flow whose guided velocity and map are known for every scale.

A class at m is the Gaussian N(m, s^2), and "no class" the one at 0. The velocity of N(m, s^2) is affine in m, so guidance at
scale w gives the velocity of N(w m, s^2), whose flow carries x0 to w m + s x0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch, Cond
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.distillation import Distillation, distill
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.guidance_condition import guided_by_condition, guided_student, guided_teacher, with_scales
from rectiflow.rectify.marginal_transport import MarginalTransport
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.method import Method, Support
from rectiflow.rectify.one_step import OneStep
from rectiflow.rectify.refiner import FlowTurbo
from rectiflow.rectify.shortcut import Shortcut
from rectiflow.sampling import integrate
from rectiflow.times import Uniform
from rectiflow.training.options import TrainingOptions

pytestmark = pytest.mark.usefixtures("float64_default")

RANGE = (1.0, 4.0)
MEANS = torch.tensor([[1.0, -2.0], [0.5, 1.5], [0.0, 0.0]], dtype=torch.float64)  # the last is no class
SPREAD = 0.5
CENTRED = GaussianFlow(torch.zeros(2, dtype=torch.float64), SPREAD**2 * torch.eye(2, dtype=torch.float64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def velocity_at(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
    """Velocity of N(mean, SPREAD^2): that of the centred one at x - t mean, plus the mean."""
    return mean + CENTRED.velocity(x - t[:, None] * mean, t)


def conditional(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return velocity_at(x, t, MEANS[label])


def exact_average(x: Tensor, t: Tensor, until: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
    """Average velocity of N(w m, SPREAD^2)."""
    mean = guidance[:, None].to(x) * MEANS[label]
    return mean + CENTRED.average_velocity(x - t[:, None] * mean, t, until)


def exact_step(x: Tensor, t: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
    """From the noise straight to w m + s x0."""
    return guidance[:, None].to(x) * MEANS[label] + (SPREAD - 1) * x


TEACHER = Flow(conditional, null={"label": 2})


def labels(count: int, generator: torch.Generator) -> Cond:
    return {"label": torch.randint(2, (count,), generator=generator)}


def data(count: int) -> Batch:
    cond = labels(count, seeded(3))
    noise = torch.randn(count, 2, generator=seeded(4), dtype=torch.float64)
    return Batch(x1=MEANS[cond["label"]] + SPREAD * noise, cond=cond)


def loss_of(method: Method, model: Any, batch: Batch, teacher: Flow = TEACHER) -> float:
    """Loss of a student's model under a range of scales."""
    distillation = Distillation(teacher, method, 1, RANGE)
    flow = distillation.student(Flow(model, null={"label": 2}))
    return float(distillation.loss(flow, batch, seeded())[0])


def test_guidance_of_the_teacher_is_the_known_velocity() -> None:
    """w v(class) + (1 - w) v(no class), and not the other way round; with a scale a sample."""
    teacher = guided_by_condition(TEACHER)
    x, t = torch.randn(5, 2, generator=seeded()), torch.linspace(0, 0.9, 5)
    label, scales = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0.0, 1.0, 2.5, 4.0, 3.0])
    found = teacher.velocity(x, t, label=label, guidance=scales)
    torch.testing.assert_close(found, velocity_at(x, t, scales[:, None] * MEANS[label]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "method", [MeanFlow(times=Uniform(), power=0.0, jumps=0.5), Shortcut(bootstrap=0.0)], ids=["mean_flow", "shortcut"]
)
def test_methods_on_data_vanish_at_the_closed_form_of_every_scale(method: Method) -> None:
    batch = data(60)
    assert loss_of(method, exact_average, batch) < 1e-18

    def one_scale(x: Tensor, t: Tensor, until: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        return exact_average(x, t, until, label, torch.full_like(guidance, 2.0))

    assert loss_of(method, one_scale, batch) > 1e-2


def test_marginal_transport_too() -> None:
    def to_the_data(x: Tensor, t: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        return exact_average(x, t, torch.ones_like(t), label, guidance)

    method = MarginalTransport(times=Uniform(), derivative="difference", step=1e-4)
    assert loss_of(method, to_the_data, data(60)) < 1e-6


def test_scales_are_drawn_log_uniformly_and_once() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, until: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        seen.append(guidance)
        return torch.zeros_like(x)

    loss_of(Shortcut(bootstrap=0.0), model, data(4000))
    (drawn,) = seen
    assert 1 <= float(drawn.min()) < 1.01
    assert 3.96 < float(drawn.max()) <= 4
    assert abs(float(drawn.log2().mean()) - 1) < 4 / (3 * 4000) ** 0.5
    batch = data(20)
    own = torch.full((20,), 2.5)
    loss_of(Shortcut(bootstrap=0.0), model, Batch(batch.x1, {**batch.cond, "guidance": own}))
    assert torch.equal(seen[-1], own)  # scales that the data bring stay


def test_without_a_teacher_the_path_is_guided_at_each_scale() -> None:
    """The fixed point of w v + (1 - w) u, u without class, is the guided velocity; here of a flow of single points."""
    batch = Batch(MEANS[torch.tensor([0, 1] * 20)], {"label": torch.tensor([0, 1] * 20)})

    def model(x: Tensor, t: Tensor, until: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        # To the point of the class it is (m - x) / (1 - t); without class let it be to the origin.
        mean = MEANS[label] * torch.where(label == 2, 1.0, guidance)[:, None].to(x)
        return (mean - x) / (1 - t)[:, None]

    method = MeanFlow(times=Uniform(), jumps=0.0, power=0.0, teacher=False)
    assert loss_of(method, model, batch) < 1e-18


def test_pairs_of_every_scale_and_one_evaluation(tmp_path: Path) -> None:
    """InstaFlow's second stage: zero at w m + s x0, which the student then gives at whatever scale is asked for."""
    teacher = guided_teacher(TEACHER, RANGE)
    conditions = with_scales(labels, RANGE)
    store = generate_pairs(
        teacher,
        tmp_path,
        count=50,
        shape=(2,),
        steps=40,
        method="rk4",
        seed=0,
        conditions=conditions,
        dtype="float64",
    )
    batch = store.rows(list(range(50)))
    expected = batch.cond["guidance"][:, None] * MEANS[batch.cond["label"]] + SPREAD * batch.x0  # type: ignore[operator]
    torch.testing.assert_close(batch.x1, expected, atol=1e-6, rtol=0)
    assert loss_of(OneStep(), exact_step, batch) < 1e-12

    student = guided_student(OneStep(), Flow(exact_step, null={"label": 2}), RANGE)
    x0, label = torch.randn(4, 2, generator=seeded(9)), torch.tensor([0, 1, 0, 1])
    for scale in (1.0, 1.7, 4.0):
        drawn = integrate(student, x0, steps=1, cond={"label": label}, guidance=scale)
        assert drawn.nfe == 1
        torch.testing.assert_close(drawn.x, scale * MEANS[label] + SPREAD * x0, atol=1e-12, rtol=0)
    each = torch.tensor([1.0, 2.0, 3.0, 4.0])
    drawn = integrate(student, x0, steps=1, cond={"label": label, "guidance": each})
    torch.testing.assert_close(drawn.x, each[:, None] * MEANS[label] + SPREAD * x0, atol=1e-12, rtol=0)


def test_a_student_teaches_the_next_one() -> None:
    """InstaFlow's first stage gives the teacher of the second: its scales come with one evaluation, not with two."""
    first = guided_student(OneStep(), Flow(exact_step, null={"label": 2}), RANGE)
    assert guided_by_condition(first) is first
    assert guided_teacher(first, (1.5, 2.0)) is first
    with pytest.raises(ConfigError, match="trained for 1 to 4"):
        guided_teacher(first, (1.0, 5.0))


class Affine(nn.Module):
    """A student with the form of the solution: what it must learn is where the class enters, and by which factor of w."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(3, 2))
        self.rate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        moved: Tensor = self.rate * x + guidance[:, None] * self.means[label]
        return moved


def test_distilled_over_a_range(tmp_path: Path) -> None:
    teacher, conditions = guided_teacher(TEACHER, RANGE), with_scales(labels, RANGE)
    store = generate_pairs(
        teacher, tmp_path, count=256, shape=(2,), steps=30, method="rk4", seed=0, conditions=conditions, dtype="float64"
    )
    options = TrainingOptions(steps=150, batch=64, learning_rate=0.1, ema=0.9, tensorboard=False, preview_every=0)
    student = distill(
        TEACHER, store, method=OneStep(), student=Affine().double(), options=options, guidance_range=RANGE
    )
    assert student.guidance_range == RANGE
    x0, label = torch.randn(50, 2, generator=seeded(9)), torch.randint(2, (50,), generator=seeded(1))
    for scale in (1.0, 4.0):
        end = integrate(student, x0, steps=1, cond={"label": label}, guidance=scale).x
        assert (end - scale * MEANS[label] - SPREAD * x0).abs().max() < 0.05


def test_what_is_refused() -> None:
    student = guided_student(OneStep(), Flow(exact_step, null={"label": 2}), RANGE)
    x0, cond = torch.zeros(2, 2), {"label": torch.zeros(2, dtype=torch.long)}
    for guidance, says in [
        (5.0, "scale is 5; this student was trained for 1 to 4"),
        (0.5, "scale is 0.5; this student was trained for 1 to 4"),
        (Guidance(2.0, (0.0, 0.5)), "one scale for all times"),
    ]:
        with pytest.raises(ConfigError, match=says):
            integrate(student, x0, steps=1, cond=cond, guidance=guidance)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a scale for each sample; give one of them"):
        integrate(student, x0, steps=1, cond={**cond, "guidance": torch.ones(2)}, guidance=2.0)
    with pytest.raises(ConfigError, match="conditional, trained with condition_drop above 0"):
        Distillation(Flow(lambda x, t: x), OneStep(), 1, RANGE)
    with pytest.raises(ConfigError, match="do not say which guidance scale"):
        loss_of(OneStep(), exact_step, Batch(x0, cond, x0=x0))
    with pytest.raises(ConfigError, match="MeanFlow has guidance 2, and guidance scales from 1 to 4"):
        guided_student(MeanFlow(guidance=2.0), TEACHER, RANGE)
    with pytest.raises(ConfigError, match="FlowTurbo keeps the teacher's network"):
        guided_student(FlowTurbo(), TEACHER, RANGE)
    assert guided_student(FlowTurbo(), TEACHER, None).guidance_range is None
    assert Support(TEACHER).require_teacher(OneStep()) is TEACHER
