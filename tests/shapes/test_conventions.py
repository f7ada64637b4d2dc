"""Velocities told as published shape models tell them, read the house way: one exact step from noise is on the data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rectiflow.adapters import ReversedTime
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

DATA = torch.tensor([[0.3, -0.7, 0.2], [0.1, 0.5, -0.4]])  # a set of two tokens, the only one there is
LEAST = 1e-5  # TRELLIS keeps so much noise in its data
Model = Callable[[Tensor, Tensor], Tensor]


def forwards(x: Tensor, sigma: Tensor) -> Tensor:
    """Hunyuan3D-2: sigma = 1 at the data, data - noise."""
    return (DATA - x) / (1 - sigma)[:, None, None]


def noise_level(x: Tensor, sigma: Tensor) -> Tensor:
    """TripoSG: sigma = 0 at the data, data - noise."""
    return (DATA - x) / sigma[:, None, None]


def backwards(x: Tensor, t: Tensor) -> Tensor:
    """TRELLIS, MDT-dist: x_t = (1 - t) data + (least + (1 - least) t) noise, and (1 - least) noise - data is predicted."""
    t = t[:, None, None]
    return (1 - LEAST) * (x - (1 - t) * DATA) / (LEAST + (1 - LEAST) * t) - DATA


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        (forwards, 1e-5),
        (ReversedTime(lambda x, sigma: -noise_level(x, sigma)), 1e-5),
        (ReversedTime(backwards), 1e-5 + 4 * LEAST),
    ],
    ids=["hunyuan", "triposg", "trellis"],
)
def test_one_step_of_the_exact_velocity_lands_on_the_data(model: Model, tolerance: float) -> None:
    noise = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    found = integrate(Flow(model), noise, steps=1, method="euler").x
    torch.testing.assert_close(found, DATA.expand(3, -1, -1), atol=tolerance, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 3.0, 7.5])
def test_trellis_counts_guidance_from_zero(weight: float) -> None:
    told = {"told": torch.ones(3)}

    def model(x: Tensor, t: Tensor, told: Tensor) -> Tensor:
        return (1 + 2 * told)[:, None, None] * torch.ones_like(x)

    flow = Flow(model, null={"told": 0.0})
    x0 = torch.zeros(3, 2, 3)
    found = integrate(flow, x0, steps=1, method="euler", cond=told, guidance=1 + weight).x
    conditional, unconditional = 3.0, 1.0
    expected = (1 + weight) * conditional - weight * unconditional
    torch.testing.assert_close(found, torch.full_like(x0, expected))
