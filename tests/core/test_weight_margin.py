"""The cap of a velocity's weight, and masks that come with conditions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.times import TimeLaw


class Fixed(TimeLaw):
    """The same times always."""

    def __init__(self, times: Tensor) -> None:
        self.times = times

    def sample(
        self, count: int, generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        return self.times


def test_the_weight_of_data_predictions_stops_growing_at_the_margin() -> None:
    times = torch.tensor([0.0, 0.5, 0.9, 0.99])
    x1 = torch.arange(4.0)[:, None]
    flow = Flow(lambda x, t: torch.zeros_like(x), predicts="data")
    expected = (x1[:, 0].square() / torch.tensor([1.0, 0.5, 0.1, 0.1]).square()).mean()
    generator = torch.Generator().manual_seed(0)
    loss = flow.loss(x1, times=Fixed(times), weight="velocity", weight_margin=0.1, generator=generator)
    torch.testing.assert_close(loss, expected)
    method = FlowMatching(times=Fixed(times), weight="velocity", weight_margin=0.1)
    torch.testing.assert_close(method.loss(flow, Batch(x1=x1), generator)[0], expected)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_margins_lie_between_zero_and_one(margin: float) -> None:
    with pytest.raises(ConfigError, match="weight_margin"):
        FlowMatching(weight_margin=margin)


def test_stored_pairs_take_their_mask_from_their_conditions() -> None:
    """Padding of pairs must not count: only the first of two entries is data here."""
    network = nn.Linear(1, 1)
    flow = Flow(lambda x, t, present: torch.zeros_like(x), predicts="data")
    domain: Any = SimpleNamespace(
        flow=lambda network: flow,
        mask=lambda cond: cond["present"],
        extra_loss=lambda flow, prediction, draw, batch: {},
    )
    task = FlowTask(domain, network, FlowMatching(), SimpleNamespace())
    pairs = Batch(
        x1=torch.tensor([[2.0, 100.0], [2.0, 100.0]]),
        x0=torch.zeros(2, 2),
        cond={"present": torch.tensor([[True, False], [True, False]])},
    )
    loss, _ = task.loss(network, pairs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.tensor(4.0))
