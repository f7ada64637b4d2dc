"""Differences along a direction: of second order inside, and never at a time outside [0, 1]."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.flow import Flow
from rectiflow.rectify.derivative import Direction, along

pytestmark = pytest.mark.usefixtures("float64_default")


def square(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
    """Of second degree in both times, which a central difference takes exactly and a one-sided one to the first order."""
    return x + (t.square() + 3 * until.square())[:, None]


@pytest.mark.parametrize(("dt", "duntil"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 0.5), (1.0, -2.0)])
def test_times_stay_where_the_model_is_trained(dt: float, duntil: float) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        seen.append(torch.stack([t, until]))
        return square(x, t, until)

    t, until = torch.tensor([0.0, 0.002, 0.5, 0.97, 0.3]), torch.tensor([0.0, 1.0, 0.7, 0.999, 1.0])
    if dt * duntil < 0:
        t, until = t[1:], until[1:]  # from both ends at once a direction like this has no way inside
    x = torch.ones(len(t), 1)
    flow = Flow(model, average=True)
    direction = Direction(2 * torch.ones_like(x), dt, duntil)
    _, slope = along(flow, x, t, until, {}, direction, derivative="difference", step=0.01)
    assert all(((times >= 0) & (times <= 1)).all() for times in seen)
    expected = 2 + 2 * t * dt + 6 * until * duntil
    one_sided = 0.01 * (dt**2 + 3 * duntil**2)  # half the second derivative times the step
    assert (slope[:, 0] - expected).abs().max() < one_sided + 1e-9
    inside = t.minimum(until).gt(0.05) & t.maximum(until).lt(0.95)
    assert inside.any()
    torch.testing.assert_close(slope[inside, 0], expected[inside], atol=1e-10, rtol=0)
    again = along(flow, x, t, until, {}, direction)[1][:, 0]
    torch.testing.assert_close(again, expected, atol=1e-12, rtol=0)


def test_without_room_on_any_side_it_is_central_all_the_same() -> None:
    t, until, x = torch.ones(1), torch.ones(1), torch.zeros(1, 1)
    _, slope = along(
        Flow(square, average=True), x, t, until, {}, Direction(None, 1.0, -1.0), derivative="difference", step=0.01
    )
    torch.testing.assert_close(slope, torch.tensor([[2.0 - 6.0]]), atol=1e-10, rtol=0)
