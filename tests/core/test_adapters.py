"""Models and samplers across library borders, with stand-ins that have the documented interfaces of the peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.adapters import DiffusersModel, FlowScheduler, ReversedTime, TimeFirst, VectorField
from rectiflow.analytic import GaussianFlow
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 0.4]], dtype=torch.float64)
OURS = GaussianFlow(MEAN, COVARIANCE)


def points(count: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, count)


def theirs(x: Tensor, tau: Tensor) -> Tensor:
    """The same flow told the other way: tau = 1 at noise, x_tau = (1 - tau) data + tau noise, velocity noise - data.

    Derived afresh: y ~ N(m, C), e ~ N(0, I); E[e - y | x] by regressing on x.
    """
    out = []
    for here, time in zip(x, tau, strict=True):
        covariance = (1 - time) ** 2 * COVARIANCE + time**2 * torch.eye(2)
        cross = time * torch.eye(2) - (1 - time) * COVARIANCE
        out.append(-MEAN + cross @ torch.linalg.solve(covariance, here - (1 - time) * MEAN))
    return torch.stack(out)


def test_reversed_time_reads_a_model_told_the_other_way() -> None:
    x, t = points()
    torch.testing.assert_close(ReversedTime(theirs)(x, t), OURS.velocity(x, t), atol=1e-12, rtol=0)
    scaled = ReversedTime(lambda x, tau: theirs(x, tau / 1000), scale=1000)
    torch.testing.assert_close(scaled(x, t), OURS.velocity(x, t), atol=1e-12, rtol=0)


def test_reversed_time_is_its_own_inverse() -> None:
    x, t = points()
    torch.testing.assert_close(ReversedTime(ReversedTime(theirs))(x, t), theirs(x, t), atol=1e-12, rtol=0)
    quarters = torch.tensor([0.0, 0.25, 0.5, 1.0])
    exact = ReversedTime(ReversedTime(lambda x, t: x + t[:, None]))(x[:4], quarters)
    assert torch.equal(exact, x[:4] + quarters[:, None])


def test_reversed_time_passes_conditions_and_dicts() -> None:
    def model(x: dict[str, Tensor], t: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {name: part * label[:, None] + t[:, None] for name, part in x.items()}

    x, label = {"a": torch.ones(2, 1), "b": torch.zeros(2, 3)}, torch.tensor([1.0, 2.0])
    out = ReversedTime(model)(x, torch.full((2,), 0.75), label=label)
    assert out["a"].tolist() == [[-1.25], [-2.25]]
    assert out["b"].tolist() == [[-0.25] * 3] * 2


def test_time_first_models() -> None:
    def torchcfm_style(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return OURS.velocity(x, t) * y[:, None]

    x, t = points()
    out = TimeFirst(torchcfm_style)(x, t, y=torch.full((9,), 2.0))
    torch.testing.assert_close(out, 2 * OURS.velocity(x, t))
    ours_for_them = TimeFirst(OURS.velocity)
    torch.testing.assert_close(ours_for_them(t, x), OURS.velocity(x, t))


def test_vector_field_is_what_ode_libraries_call() -> None:
    x, _ = points()
    flow = Flow(lambda x, t, gain: gain[:, None] * OURS.velocity(x, t))
    field = VectorField(flow, {"gain": torch.full((9,), 3.0)})
    expected = 3 * OURS.velocity(x, torch.full((9,), 0.3))
    for t in (torch.tensor(0.3), 0.3, torch.full((9,), 0.3)):
        torch.testing.assert_close(field(t, x), expected)
    torch.testing.assert_close(field(torch.tensor(0.3), x, args={}), expected)
    single = field(torch.tensor(0.3, dtype=torch.float64), x.float())
    assert single.dtype is torch.float64 or single.dtype is torch.float32


class FakeTransformer(nn.Module):
    """Called as diffusers pipelines call their networks: keyword timestep, in thousandths, before or after other inputs."""

    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.output = output
        self.calls: list[dict[str, Any]] = []

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *, timestep: Tensor, **other: Any
    ) -> Any:
        self.calls.append({"timestep": timestep, "text": encoder_hidden_states, **other})
        return self.output(theirs(hidden_states, timestep / 1000))


@pytest.mark.parametrize("output", [lambda v: SimpleNamespace(sample=v), lambda v: (v,), lambda v: v])
def test_diffusers_models(output: Callable[[Tensor], Any]) -> None:
    network = FakeTransformer(output)
    x, t = points()
    wrapped = DiffusersModel(network, fixed={"return_dict": False})
    text = torch.zeros(9, 4)
    torch.testing.assert_close(wrapped(x, t, encoder_hidden_states=text), OURS.velocity(x, t), atol=1e-12, rtol=0)
    assert network.calls[0]["text"] is text
    assert network.calls[0]["return_dict"] is False
    torch.testing.assert_close(network.calls[0]["timestep"], 1000 * (1 - t))
    assert list(wrapped.children()) == [network]


def test_a_model_that_multiplies_inside_gets_sigma() -> None:
    seen: list[Tensor] = []

    def flux_style(x: Tensor, timestep: Tensor) -> Tensor:
        seen.append(timestep)
        return x

    DiffusersModel(flux_style, scale=1.0)(*points(3))
    assert seen[0].tolist() == [1.0, 0.5, 0.0]


def test_an_output_that_is_no_tensor_is_named() -> None:
    for bad in (lambda x, timestep: {"v": x}, lambda x, timestep: ()):
        with pytest.raises(ConfigError, match=r"returned (dict|tuple).*\.sample"):
            DiffusersModel(bad)(*points(3))


def pipeline(scheduler: FlowScheduler, x: Tensor, **timesteps: Any) -> tuple[Tensor, int]:
    """The loop of a diffusers pipeline."""
    scheduler.set_timesteps(**timesteps)
    latents, calls = x * scheduler.init_noise_sigma, 0
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, t)
        sigma = t.to(x.dtype) / scheduler.config.num_train_timesteps
        output = theirs(model_input, sigma.expand(len(x)))
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
        calls += 1
    return latents, calls


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("rf_solver", 2), ("heun", 2), ("rk4", 4)]
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_pipeline_with_our_scheduler_is_our_sampler(method: str, order: int, shift: float) -> None:
    x, _ = points()
    scheduler = FlowScheduler(method, shift)
    end, calls = pipeline(scheduler, x, num_inference_steps=6)
    expected = integrate(OURS.flow(), x, steps=6, method=method, shift=shift)
    # float32 timesteps are what a pipeline hands its network
    torch.testing.assert_close(end, expected.x, atol=2e-6, rtol=1e-6)
    assert calls == expected.nfe == 6 * order
    assert scheduler.order == order


def test_sigmas_of_the_callers_own() -> None:
    x, _ = points()
    levels = [1.0, 0.7, 0.2]
    end, _ = pipeline(FlowScheduler("heun"), x, sigmas=levels)
    expected = integrate(OURS.flow(), x, times=torch.tensor([0.0, 0.3, 0.8, 1.0]), method="heun").x
    torch.testing.assert_close(end, expected, atol=2e-6, rtol=1e-6)
    scheduler = FlowScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.5, 0.0])
    assert scheduler.sigmas.tolist() == [1.0, 0.5, 0.0]
    assert scheduler.timesteps.tolist() == [1000.0, 500.0]


def test_one_euler_step_by_hand() -> None:
    """prev = sample + (sigma_next - sigma) output."""
    scheduler = FlowScheduler()
    scheduler.set_timesteps(4)
    sample, output = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, -8.0]])
    first = scheduler.step(output, scheduler.timesteps[0], sample)
    assert first.prev_sample.tolist() == [[0.0, 4.0]]
    second = scheduler.step(output, scheduler.timesteps[1], torch.zeros(1, 2))  # a pipeline may edit the state
    assert second.prev_sample.tolist() == [[-1.0, 2.0]]


def test_half_precision_states_stay_so_and_are_stepped_in_float32() -> None:
    scheduler = FlowScheduler()
    scheduler.set_timesteps(1000)
    x, output = torch.ones(1, 1, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16)
    assert scheduler.step(output, scheduler.timesteps[0], x).prev_sample.dtype is torch.bfloat16


def test_scheduler_refusals() -> None:
    with pytest.raises(ConfigError, match=r"'dopri5'.*euler"):
        FlowScheduler("dopri5")
    scheduler = FlowScheduler()
    with pytest.raises(ConfigError, match="one of them"):
        scheduler.set_timesteps()
    with pytest.raises(ConfigError, match="one of them"):
        scheduler.set_timesteps(3, sigmas=[1.0])
    with pytest.raises(ConfigError, match="steps is 0"):
        scheduler.set_timesteps(0)
    with pytest.raises(ConfigError, match=r"times hold -0\.5"):
        scheduler.set_timesteps(sigmas=[1.5, 0.5])
    with pytest.raises(ConfigError, match="strictly"):
        scheduler.set_timesteps(sigmas=[0.2, 0.7])
    scheduler.set_timesteps(1)
    scheduler.step(torch.ones(1, 1), 1000, torch.ones(1, 1))
    with pytest.raises(ConfigError, match="all 1 timesteps are done"):
        scheduler.step(torch.ones(1, 1), 0, torch.ones(1, 1))
    assert math.isclose(scheduler.init_noise_sigma, 1.0)
