"""Editing by inversion against the composition of closed-form flow maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, MixtureFlow
from rectiflow.control import edit
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow

MODELS = [
    GaussianFlow(torch.tensor([-2.0, 0.0]).double(), torch.diag(torch.tensor([0.25, 1.5])).double()),
    GaussianFlow(torch.tensor([1.0, 1.0]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()),
]


def velocity(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    both = torch.stack([model.velocity(x, t) for model in MODELS])
    return both[label, torch.arange(len(x))]


def labels(value: int, count: int) -> dict[str, Tensor]:
    return {"label": torch.full((count,), value)}


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize(("method", "evaluations"), [("fireflow", 41), ("rf_solver", 80)])
def test_edit_is_one_flow_map_back_and_another_one_forth(method: str, evaluations: int, strength: float) -> None:
    x1 = MODELS[0].sample(200, torch.Generator().manual_seed(0))
    edited = edit(
        Flow(velocity),
        x1,
        source=labels(0, 200),
        target=labels(1, 200),
        steps=40,
        method=method,
        strength=strength,
    )
    start, end = torch.full((200,), 1 - strength), torch.ones(200)
    expected = MODELS[1].flow_map(MODELS[0].flow_map(x1, end, start), start, end)
    torch.testing.assert_close(edited.x, expected, atol=2e-3, rtol=0)
    assert edited.nfe == 2 * evaluations
    assert float(edited.times[0]) == pytest.approx(1 - strength)


def test_editing_to_the_same_condition_changes_little_and_less_with_more_steps() -> None:
    x1 = MODELS[0].sample(200, torch.Generator().manual_seed(0))
    same = labels(0, 200)
    errors = [
        float((edit(Flow(velocity), x1, source=same, target=same, steps=steps).x - x1).square().mean().sqrt())
        for steps in (8, 16)
    ]
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 4  # third order would be 8


def test_a_mixture_without_conditions_becomes_the_other_mixture() -> None:
    """Four modes at the corners become four on the axes, one to one: what was told apart before stays told apart."""
    corners = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    turn = torch.tensor([[0.5**0.5, 0.5**0.5], [-(0.5**0.5), 0.5**0.5]])
    tight = torch.eye(2).expand(4, 2, 2) * 0.04
    models = [MixtureFlow([1.0] * 4, means, tight) for means in (corners, corners @ turn)]

    def either(x: Tensor, t: Tensor, which: Tensor) -> Tensor:
        return torch.where(which[:, None] == 0, models[0].velocity(x, t), models[1].velocity(x, t))

    mode = torch.arange(400) % 4
    x1 = corners[mode] + 0.2 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    source, target = {"which": torch.zeros(400)}, {"which": torch.ones(400)}
    edited = edit(Flow(either), x1, source=source, target=target, steps=32).x
    distances = torch.cdist(edited, corners @ turn)
    assert float((distances.amin(1) < 0.8).double().mean()) > 0.99
    assert (
        float((edited - x1).norm(dim=1).mean()) < 2.2
    )  # the modes are 2.165 from their nearest new place, 4 from others


def test_guidance_acts_forwards_alone() -> None:
    flow = Flow(velocity, null={"label": 0})
    x1 = MODELS[0].sample(50, torch.Generator().manual_seed(0))
    plain = edit(flow, x1, source=labels(0, 50), target=labels(1, 50))
    guided = edit(flow, x1, source=labels(0, 50), target=labels(1, 50), guidance=2.0)
    assert (plain.nfe, guided.nfe) == (18, 27)
    assert float(guided.x[:, 0].mean()) > float(plain.x[:, 0].mean()) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"strength": 0.0}, "strength is 0"), ({"strength": 1.5}, r"1\.5"), ({"method": "dopri5"}, "dopri5")],
)
def test_mistakes_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edit(Flow(velocity), torch.zeros(2, 2), source=labels(0, 2), target=labels(1, 2), **options)
