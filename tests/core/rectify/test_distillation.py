"""A student from a flow by any method: what the loop hands over, exact resume, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.dispersive import Dispersive
from rectiflow.rectify.distillation import Distillation, distill
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.method import ALONE, Method, Support
from rectiflow.rectify.phased import Phased
from rectiflow.rectify.shortcut import Shortcut
from rectiflow.sampling import integrate, sample
from rectiflow.times import Uniform
from rectiflow.training.ema import EMA
from rectiflow.training.options import TrainingOptions
from rectiflow.training.resume import Progress

EXACT = GaussianFlow(torch.tensor([1.0, -0.5]).double(), torch.diag(torch.tensor([0.2, 1.5])).double())


class Points:
    """Samples of the Gaussian; after `crash_after` batches reading fails, as a machine might."""

    def __init__(self, crash_after: int = -1) -> None:
        self.points = EXACT.sample(64, torch.Generator().manual_seed(0)).to(torch.get_default_dtype())
        self.left = crash_after

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: list[int]) -> Batch:
        self.left -= 1
        if self.left == 0:
            raise KeyError("crash")
        return Batch(self.points[indices])


class Student(nn.Module):
    """A perceptron of average velocities with dropout, so that a resume must bring the global generator back too."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Dropout(dropout), nn.Linear(32, 2))

    def forward(self, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None], until[:, None]], 1))  # type: ignore[no-any-return]


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(
        **{
            "steps": 12,
            "batch": 8,
            "warmup": 2,
            "checkpoint_every": 5,
            "tensorboard": False,
            "accelerator": "cpu",
            **changes,
        }
    )


@pytest.mark.parametrize(
    "method", [MeanFlow(times=Uniform(), jumps=0.75), Shortcut(bootstrap=0.5)], ids=["mean_flow", "shortcut"]
)
def test_a_student_learns_the_jump(method: Method) -> None:
    flow = distill(
        EXACT.flow(),
        Points(),
        method=method,
        student=Student(),
        options=options(steps=200, batch=64, learning_rate=1e-2, ema=0.95),
    )
    assert flow.average
    assert not flow.guidable
    assert not flow.model.training  # type: ignore[attr-defined]
    x0 = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    exact = EXACT.flow_map(x0, torch.zeros(500), torch.ones(500))
    jump = integrate(flow, x0, steps=1, method="jump").x
    euler = integrate(EXACT.flow(), x0, steps=1).x
    assert (jump - exact).square().mean() < 0.3 * (euler - exact).square().mean()
    with pytest.raises(ConfigError, match="guidance scale 2 is refused"):
        sample(flow, (4, 2), steps=1, method="jump", guidance=2.0, cond={"label": torch.zeros(4)})


@pytest.mark.parametrize("crash", [3, 8])
@pytest.mark.parametrize("form", ["shortcut", "dispersive"])
def test_a_crashed_and_resumed_distillation_equals_a_straight_one(tmp_path: Path, crash: int, form: str) -> None:
    """Targets come from the averaged student, which must come back as it was."""
    method: Method = Shortcut(bootstrap=0.5, teacher=False)
    if form == "dispersive":
        method = Dispersive(method, layers=["layers.0"])

    def run(folder: Path, data: Points) -> dict[str, Tensor]:
        student = Student(dropout=0.2)
        flow = distill(EXACT.flow(), data, method=method, student=student, options=options(), folder=folder)
        return flow.model.state_dict()  # type: ignore[attr-defined,no-any-return]

    straight = run(tmp_path / "straight", Points())
    with pytest.raises(KeyError, match="crash"):
        run(tmp_path / "broken", Points(crash))
    torch.rand(7)  # the resumed process has another past
    resumed = run(tmp_path / "broken", Points())
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        (MeanFlow(jumps=0.5), 8),
        (MeanFlow(teacher=False), None),
        (Shortcut(bootstrap=0.75), 2),  # the jumps ask the averaged student
        (Shortcut(bootstrap=1.0), None),
        (Phased(solver_steps=3, solver="midpoint"), 48),
    ],
)
def test_the_states_that_the_teacher_is_asked_at_are_counted(method: Method, asked: float | None) -> None:
    work = Distillation(EXACT.flow(), method, steps=10)
    network = Student() if method.average else EXACT.flow().model
    flow = work.student(Flow(network))
    work.follow(EMA(nn.Linear(1, 1), 0.9), Progress())
    work._average = Student()
    batch = Batch(EXACT.sample(8, torch.Generator().manual_seed(0)).to(torch.get_default_dtype()))
    for _ in range(2):
        _, terms = work.loss(flow, batch, torch.Generator().manual_seed(1))
        assert (float(terms["teacher_evaluations"]) if "teacher_evaluations" in terms else None) == asked


class Looking(Method):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, Tensor, Tensor]] = []

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        average = support.require_average(self)
        assert support.require_teacher(self).model.model == EXACT.flow().model  # type: ignore[attr-defined]  # it is counted
        assert not average.model.training  # type: ignore[attr-defined]
        weight = average.model.weight  # type: ignore[attr-defined]
        self.seen.append((support.step, support.steps, weight.clone(), flow.model.weight.detach().clone()))  # type: ignore[attr-defined]
        return flow.model(batch.x1, torch.zeros(1)).square().mean(), {}


class Scaled(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight * x


def test_a_method_sees_the_step_and_the_average_of_the_weights() -> None:
    method = Looking()
    settings = options(steps=4, ema=0.5, learning_rate=0.1, warmup=0)
    distill(EXACT.flow(), Points(), method=method, student=Scaled(), options=settings)
    assert [(step, steps) for step, steps, _, _ in method.seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    average = method.seen[0][2]
    for number, (_, _, shown, own) in enumerate(method.seen[1:]):
        decay = min(0.5, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * own
        torch.testing.assert_close(shown, average)


def test_the_averaged_network_follows_later_updates_and_has_the_networks_buffers() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    ema = EMA(network, 0.9)
    shadow = ema.network()
    assert not any(module.training for module in shadow.modules())
    assert not any(parameter.requires_grad for parameter in shadow.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    ema.update()
    ema.load_state_dict({name: value + 1 for name, value in ema.state_dict().items()}, 1)
    network(torch.randn(8, 2))  # moves the running statistics
    for name, value in ema.state_dict().items():
        assert torch.equal(shadow.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_cannot_be_distilled_is_said() -> None:
    class Pairs(Looking):
        trains_on = "pairs"

    with pytest.raises(ConfigError, match="Pairs trains on pairs; got a Points"):
        distill(EXACT.flow(), Points(), method=Pairs())
    with pytest.raises(ConfigError, match="give student=<a torch module>"):
        distill(EXACT.flow(), Points(), method=MeanFlow())
    with pytest.raises(ConfigError, match="Scaled takes no `until`"):
        distill(EXACT.flow(), Points(), method=MeanFlow(), student=Scaled())
    with pytest.raises(ConfigError, match="got data without x0"):
        Looking().require_pairs(Batch(torch.ones(1, 2)))
    with pytest.raises(ConfigError, match="allowed: velocity, data or noise"):
        Flow(lambda x, t, until: x, predicts="score", average=True)
