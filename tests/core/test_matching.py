"""Flow matching as a method, drawing in batches, and reflow from Python."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.couplings import MinibatchOT
from rectiflow.diagnostics import straightness
from rectiflow.drawing import carry
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.matching import FlowMatching
from rectiflow.rectify import generate_pairs, reflow
from rectiflow.sampling import sample
from rectiflow.training.options import TrainingOptions


class Affine(nn.Module):
    """The velocity family of one-dimensional Gaussian flows, with the time given as features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1))


def test_terms_add_up_and_stored_sources_are_kept() -> None:
    flow = Flow(lambda x, t: torch.zeros_like(x))
    x0, x1 = torch.ones(4, 2), torch.full((4, 2), 3.0)
    seen: list[Draw] = []

    def extra(flow: Flow, prediction: Tensor, draw: Draw, batch: Batch) -> dict[str, Tensor]:
        seen.append(draw)
        return {"half": torch.tensor(0.5)}

    method = FlowMatching(coupling=MinibatchOT())
    total, terms = method.loss(flow, Batch(x1, x0=x0), torch.Generator().manual_seed(0), extra)
    assert float(total) == pytest.approx(4.0 + 0.5)  # |x1 - x0|^2 = 4 in each entry
    assert {name: float(term) for name, term in terms.items()} == {"matching": 4.0, "half": 0.5}
    assert torch.equal(seen[0].x0, x0)


@pytest.mark.parametrize("wrong", [{"condition_drop": 1.5}, {"condition_drop": -0.1}, {"weight": "velocty"}])
def test_wrong_method_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FlowMatching(**wrong)  # type: ignore[arg-type]


def test_carrying_in_batches_changes_nothing() -> None:
    flow = Flow(lambda x, t, shift: shift[:, None] - x)
    x0 = torch.randn(17, 3, generator=torch.Generator().manual_seed(0))
    cond = {"shift": torch.arange(17.0)}
    done: list[int] = []
    whole = carry(flow, x0, cond, method="heun", steps=5, batch=100)
    pieces = carry(flow, x0, cond, method="heun", steps=5, batch=4, progress=done.append)
    assert torch.equal(whole.x, pieces.x)
    assert (whole.nfe, pieces.nfe) == (10, 10)
    assert done == [4, 4, 4, 4, 1]


def test_reflow_from_python_straightens(tmp_path: object, float32: None) -> None:
    """A ring of two modes: after one reflow an Euler step lands where many did before."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (4000, 1), generator=generator) * 2.0 - 1
    data = torch.cat([2 * side, torch.zeros_like(side)], 1) + 0.2 * torch.randn(4000, 2, generator=generator)

    class Points:
        def __len__(self) -> int:
            return len(data)

        def __getitems__(self, indices: list[int]) -> Batch:
            return Batch(data[indices])

    from rectiflow.training.loop import fit

    class Task:
        network = Affine()

        def loss(
            self, network: nn.Module, batch: Batch, generator: torch.Generator
        ) -> tuple[Tensor, dict[str, Tensor]]:
            return FlowMatching().loss(Flow(network), batch, generator)

        def preview(self, network: nn.Module, step: int, folder: object) -> dict[str, float]:
            return {}

    options = TrainingOptions(steps=1200, batch=256, learning_rate=3e-3, accelerator="cpu", tensorboard=False)
    task = Task()
    fitted = fit(task, Points(), options)
    task.network.load_state_dict(fitted.ema)
    teacher = Flow(task.network.eval())
    pairs = generate_pairs(
        teacher, str(tmp_path) + "/pairs", count=3000, shape=(2,), steps=25, method="midpoint", seed=0
    )
    student = reflow(teacher, pairs, options=options)
    x0 = torch.randn(1000, 2, generator=generator)
    assert straightness(student, x0) < 0.1 * straightness(teacher, x0)
    errors = []
    for flow in (teacher, student):
        x = sample(flow, (2000, 2), steps=1, generator=torch.Generator().manual_seed(1))
        errors.append(float((x[:, 0].abs() - 2).abs().mean()))
    assert errors[0] > 1.5  # one step of the teacher lands between the modes
    assert errors[1] < 0.4
    assert student.independent is False
    with pytest.raises(ConfigError, match="student="):
        reflow(Flow(lambda x, t: x), pairs, options=options)
