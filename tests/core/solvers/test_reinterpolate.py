"""The sampler that starts each step from the initial noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, JointGaussianFlow
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric
from rectiflow.sampling import integrate

MEAN, SPREAD = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, 2.0]).double()


def rectified(path: Interpolant) -> Flow:
    """The flow of x1 = m + c x0."""
    c = torch.diag(SPREAD)
    means = (torch.zeros(2), MEAN)
    return JointGaussianFlow(means, (torch.eye(2), c @ c), c, path).flow()


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
@pytest.mark.parametrize("steps", [1, 3])
def test_exact_on_a_rectified_flow_along_any_path(path: Interpolant, steps: int) -> None:
    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    found = integrate(rectified(path), x0, steps=steps, method="reinterpolate")
    assert torch.allclose(found.x, MEAN + SPREAD * x0, atol=1e-12)
    assert found.nfe == steps


def test_each_step_mixes_the_estimate_with_the_first_noise() -> None:
    flow = GaussianFlow(MEAN, torch.diag(SPREAD.square())).flow()
    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))

    def estimate(x: Tensor, t: float) -> Tensor:
        gain = t * SPREAD.square() / (t**2 * SPREAD.square() + (1 - t) ** 2)
        return MEAN + gain * (x - t * MEAN)

    x = 0.25 * estimate(x0, 0.0) + 0.75 * x0
    x = 0.6 * estimate(x, 0.25) + 0.4 * x0
    x = estimate(x, 0.6)
    times = torch.tensor([0.0, 0.25, 0.6, 1.0])
    assert torch.allclose(integrate(flow, x0, times=times, method="reinterpolate").x, x, atol=1e-12)


@pytest.mark.parametrize("times", [[0.2, 1.0], [1.0, 0.0]])
def test_starts_at_the_noise(times: list[float]) -> None:
    with pytest.raises(ConfigError, match="starts at the noise"):
        integrate(rectified(Linear()), torch.zeros(1, 2), times=torch.tensor(times), method="reinterpolate")
