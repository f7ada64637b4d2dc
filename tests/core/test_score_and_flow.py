"""SF2M: the closed form of the scalar bridge is where the loss is stationary, and its diffusion is the bridge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.analytic_couplings import ScalarBridge
from rectiflow.couplings import MinibatchOT, SchroedingerBridge
from rectiflow.errors import ConfigError
from rectiflow.sampling import integrate
from rectiflow.score_and_flow import ScoreAndFlow

SIGMA = 0.9
CLOSED = ScalarBridge(0.0, 1.0, 1.0, 1.6, SIGMA)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    return CLOSED.velocity(x, t[:, None])


def scaled_score(x: Tensor, t: Tensor) -> Tensor:
    return SIGMA**2 / 2 * CLOSED.score(x, t[:, None])


def exact_ends(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws of the bridge's own coupling, a bivariate normal."""
    z = torch.randn(2, count, 1, generator=seeded(seed))
    slope = CLOSED.covariance / CLOSED.std0**2
    rest = math.sqrt(CLOSED.std1**2 - slope**2 * CLOSED.std0**2)
    return CLOSED.mean0 + CLOSED.std0 * z[0], CLOSED.mean1 + slope * CLOSED.std0 * z[0] + rest * z[1]


def gradients(sign: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gradients of the loss in a multiple of x added to either network: mean and standard error over batches."""
    rows = []
    for seed in range(40):
        x0, x1 = exact_ends(500, seed)
        c = torch.zeros(2, requires_grad=True)
        model = ScoreAndFlow(
            lambda x, t, c=c: velocity(x, t) + c[0] * x,
            lambda x, t, c=c: sign * scaled_score(x, t) + c[1] * x,
            SIGMA,
        )
        (slope,) = torch.autograd.grad(model.loss(x1, x0=x0, generator=seeded(100 + seed)), c)
        rows.append(slope)
    stacked = torch.stack(rows)
    return stacked.mean(0), stacked.std(0) / math.sqrt(len(rows))


def test_the_loss_is_stationary_at_the_closed_form_of_both() -> None:
    mean, error = gradients()
    assert bool((mean.abs() < 4.5 * error).all())


def test_the_wrong_sign_of_the_score_is_noticed() -> None:
    mean, error = gradients(sign=-1.0)
    assert float(mean[1].abs() / error[1]) > 10


def test_each_target_adds_its_own_mean_square() -> None:
    """Networks that say 0 leave E |u|^2 + E |z|^2 of the drawn bridges."""
    x0, x1 = exact_ends(4000, 1)
    zero = ScoreAndFlow(lambda x, t: 0 * x, lambda x, t: 0 * x, SIGMA)
    draw = zero.flow.draw(x1, x0=x0, generator=seeded(3))
    assert isinstance(draw.latent, Tensor)
    expected = float(draw.target.square().mean() + draw.latent.square().mean())
    assert float(zero.loss(x1, x0=x0, generator=seeded(3))) == pytest.approx(expected)


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_the_second_target_is_the_scaled_score_at_unit_variance(sigma: float) -> None:
    """A network that says (sigma^2 / 2) times the score of each single path has no error left in it."""
    x0, x1 = exact_ends(64, 1)

    def path_score(x: Tensor, t: Tensor) -> Tensor:
        mean = torch.lerp(torch.cat([x0, x0]), torch.cat([x1, x1]), t[:, None])
        return -(sigma**2 / 2) * (x - mean) / (sigma**2 * t * (1 - t))[:, None]

    model = ScoreAndFlow(lambda x, t: 0 * x, path_score, sigma)
    draw = model.flow.draw(x1, x0=x0, generator=seeded(3))
    loss = float(model.loss(x1, x0=x0, generator=seeded(3)))
    assert loss == pytest.approx(float(draw.target.square().mean()), rel=1e-9)


def test_the_diffusion_goes_from_source_to_data_with_the_bridges_covariance() -> None:
    model = ScoreAndFlow(velocity, scaled_score, SIGMA)
    n, steps = 20000, 100
    x0 = torch.randn(n, 1, generator=seeded(1))
    x1 = integrate(
        model.flow,
        x0,
        steps=steps,
        method="euler_maruyama",
        diffusion=SIGMA**2 / 2,
        last_step="full",
        generator=seeded(2),
    ).x
    assert float(x1.mean()) == pytest.approx(1.0, abs=4.5 * 1.6 / math.sqrt(n))
    assert float(x1.var()) == pytest.approx(1.6**2, rel=4.5 * math.sqrt(2 / n) + 0.01)
    error = math.sqrt((1.6**2 + CLOSED.covariance**2) / n)
    assert float(torch.cat([x0, x1], 1).T.cov()[0, 1]) == pytest.approx(CLOSED.covariance, abs=4.5 * error + 0.01)


def test_the_reverse_diffusion_returns_to_the_source() -> None:
    model = ScoreAndFlow(velocity, scaled_score, SIGMA)
    n = 20000
    x1 = 1 + 1.6 * torch.randn(n, 1, generator=seeded(1))
    x0 = integrate(
        model.flow,
        x1,
        times=torch.linspace(1, 0, 101),
        method="euler_maruyama",
        diffusion=SIGMA**2 / 2,
        last_step="full",
        generator=seeded(2),
    ).x
    assert float(x0.mean()) == pytest.approx(0.0, abs=4.5 / math.sqrt(n) + 0.01)
    assert float(x0.var()) == pytest.approx(1.0, rel=4.5 * math.sqrt(2 / n) + 0.015)
    error = math.sqrt((1.6**2 + CLOSED.covariance**2) / n)
    assert float(torch.cat([x0, x1], 1).T.cov()[0, 1]) == pytest.approx(CLOSED.covariance, abs=4.5 * error + 0.02)


def test_the_probability_flow_has_the_same_ends() -> None:
    flow = ScoreAndFlow(velocity, scaled_score, SIGMA).flow
    assert not flow.independent
    x0 = torch.linspace(-2, 2, 5)[:, None]
    torch.testing.assert_close(integrate(flow, x0, steps=80, method="rk4").x, 1 + 1.6 * x0, rtol=1e-6, atol=1e-6)


def test_its_own_plan_is_the_default_coupling_and_another_may_be_given() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
        seen.append(row)
        return 0 * x

    x1 = 3 * torch.randn(64, 2, generator=seeded())
    rows = torch.arange(64)
    for coupling in (None, SchroedingerBridge(0.2, condition_weight=0.0), MinibatchOT(0.0)):
        model = ScoreAndFlow(record, record, 0.2, coupling=coupling)
        model.loss(x1, {"row": torch.zeros(64, dtype=torch.long) if coupling is None else rows}, generator=seeded(1))
    default, plan, optimal = seen[::2]
    assert default.tolist() == [0] * 128  # antithetic paths: twice the batch
    own = SchroedingerBridge(0.2, condition_weight=0.0)(
        torch.randn(64, 2, generator=(again := seeded(1))), x1, generator=again
    )
    assert torch.equal(plan[:64], own.index)
    assert sorted(optimal[:64].tolist()) == list(range(64))


def test_masked_entries_and_conditions() -> None:
    def constant(x: Tensor, t: Tensor, speed: Tensor) -> Tensor:
        return speed[:, None, None] + 0 * x

    x1 = torch.randn(8, 4, 2, generator=seeded())
    mask = torch.arange(4)[None] < (torch.arange(8)[:, None] % 4 + 1)
    model = ScoreAndFlow(constant, constant, coupling=MinibatchOT(1.0))
    losses = [
        model.loss(torch.where(mask[..., None], x1, pad), {"speed": torch.ones(8)}, mask=mask, generator=seeded(2))
        for pad in (0.0, 100.0)
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]))


def test_a_bad_sigma_is_named() -> None:
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"sigma.*{sigma}.*positive and finite"):
            ScoreAndFlow(velocity, scaled_score, sigma)
