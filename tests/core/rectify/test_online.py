"""Pairs made for each batch, and guidance scales as a condition of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.guidance_condition import guided_by_condition, with_scales
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.method import Support
from rectiflow.rectify.one_step import OneStep
from rectiflow.rectify.online import Online
from rectiflow.rectify.rectified_flow import RectifiedFlow
from rectiflow.sampling import integrate
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.zero_mean import ZeroMean


class Labelled(nn.Module):
    """Velocity (1 + label) (1 - x): a null label of -1 stands still."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return (1 + label)[:, None] * (1 - x)


def test_fresh_pairs_each_time_that_belong_together(oracle: Any) -> None:
    seen: list[Batch] = []

    class Watching(RectifiedFlow):
        def loss(self, flow: Flow, batch: Batch, *rest: Any) -> Any:
            seen.append(batch)
            return super().loss(flow, batch, *rest)

    method = Online(Watching(), solver="rk4", steps=60)
    teacher = Support(oracle.gaussian().flow())
    data = oracle.data(50)
    for seed in (1, 2):
        loss, _ = method.loss(oracle.rectified(), data, oracle.seeded(seed), support=teacher)
        assert float(loss) < 1e-11
    assert method.trains_on == "data"
    for batch in seen:
        assert torch.allclose(batch.x1, oracle.mean + oracle.spread * batch.x0, atol=1e-5)
    assert not torch.equal(seen[0].x0, seen[1].x0)


def test_guidance_conditions_and_masks_reach_the_teacher() -> None:
    teacher = Flow(Labelled(), null={"label": -1}, space=ZeroMean())
    batch = Batch(
        x1=torch.zeros(2, 3, 1), cond={"label": torch.ones(2, 1)}, mask=torch.tensor([[True, True, False]] * 2)
    )
    one = OneStep()
    seen: list[Any] = []
    student = Flow(lambda x, t, label: seen.append(x) or torch.zeros_like(x), space=ZeroMean())  # type: ignore[func-returns-value]
    Online(one, guidance=2.0).loss(student, batch, torch.Generator().manual_seed(0), support=Support(teacher))
    x0 = seen[0]
    assert torch.allclose(x0[:, :2].mean(1), torch.zeros(2, 1), atol=1e-12)


def test_curved_spaces() -> None:
    space = SO3()
    x1 = space.sample_prior((6, 4), torch.Generator().manual_seed(0))

    def turn(x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor([0.2, 0.0, 0.4]).expand(len(x), 3)

    teacher = Flow(turn, space=space)
    loss, _ = Online(RectifiedFlow()).loss(
        teacher, Batch(x1), torch.Generator().manual_seed(0), support=Support(teacher)
    )
    assert float(loss) < 1e-20


def test_refused() -> None:
    with pytest.raises(ConfigError, match="MeanFlow does not train on pairs"):
        Online(MeanFlow())
    with pytest.raises(ConfigError, match="do not belong together"):
        Online(OneStep(), solver="euler_maruyama")
    with pytest.raises(ConfigError, match="steps is 0"):
        Online(OneStep(), steps=0)
    with pytest.raises(ConfigError, match="asks a teacher"):
        Online(OneStep()).loss(Flow(lambda x, t: x), Batch(torch.zeros(2, 1)), torch.Generator())


def test_scale_as_a_condition_equals_guidance() -> None:
    flow = Flow(Labelled(), null={"label": -1})
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    cond = {"label": torch.tensor([0.5, 1.0, 2.0])}
    scales = torch.tensor([0.0, 1.0, 3.0])
    together = integrate(guided_by_condition(flow), x, steps=5, method="heun", cond={**cond, "guidance": scales}).x
    for row, scale in enumerate(scales.tolist()):
        one = {"label": cond["label"][row : row + 1]}
        alone = integrate(flow, x[row : row + 1], steps=5, method="heun", cond=one, guidance=Guidance(scale)).x
        assert torch.allclose(together[row : row + 1], alone, atol=1e-12)


def test_pairs_keep_their_scales(tmp_path: Path) -> None:
    def labels(count: int, generator: torch.Generator) -> Cond:
        return {"label": torch.rand(count, generator=generator)}

    teacher = guided_by_condition(Flow(Labelled(), null={"label": -1}))
    conditions = with_scales(labels, (1.0, 4.0))
    store = generate_pairs(
        teacher, tmp_path, count=400, shape=(2,), steps=3, seed=0, conditions=conditions, dtype="float64"
    )
    batch = store.rows(list(range(400)))
    scale = batch.cond["guidance"]
    assert 1 <= float(scale.min()) < 1.1
    assert 3.9 < float(scale.max()) <= 4
    # Log-uniform: log2 of it is U(0, 2), of mean 1 and variance 1/3.
    assert abs(float(scale.log2().mean()) - 1) < 4 / (3 * 400) ** 0.5
    again = integrate(teacher, batch.x0, steps=3, cond=batch.cond)
    assert torch.allclose(again.x, batch.x1, atol=1e-9)
    for wrong in ((2.0, 1.0), (0.0, 1.0)):
        with pytest.raises(ConfigError, match="allowed: above 0"):
            with_scales(labels, wrong)


def test_only_flows_that_can_be_guided() -> None:
    for flow in (Flow(Labelled()), Flow(Labelled(), null={"label": -1}, self_conditioning=True)):
        with pytest.raises(ConfigError, match="can be guided"):
            guided_by_condition(flow)
