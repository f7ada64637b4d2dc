"""The adapters against the libraries themselves; they come with the bench extra, and without it these tests are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.adapters import DiffusersModel, FlowScheduler, TimeFirst, VectorField
from rectiflow.analytic import GaussianFlow
from rectiflow.couplings import MinibatchOT
from rectiflow.flow import Flow
from rectiflow.sampling import integrate

OURS = GaussianFlow(torch.tensor([1.0, -1.0]), torch.eye(2) / 4)
STEPS = 8


@pytest.fixture(autouse=True)
def quiet_float32() -> Iterator[None]:
    """Their imports warn; their networks are float32."""
    torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} comes with pip install 'rectiflow[bench]'", exc_type=ImportError)


def points(count: int = 16) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def transformer() -> nn.Module:
    """Stable Diffusion 3's network, a small one."""
    peer("diffusers")
    from diffusers import SD3Transformer2DModel

    network: nn.Module = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=3,
        out_channels=3,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
    ).eval()
    return network


def prompts(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "encoder_hidden_states": torch.randn(count, 4, 8, generator=generator),
        "pooled_projections": torch.randn(count, 8, generator=generator),
    }


def their_euler(transformer: nn.Module, x: Tensor, cond: dict[str, Tensor], shift: float) -> Tensor:
    """The library's own scheduler in the loop of its pipelines."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = transformer(x, timestep=timestep.expand(len(x)), return_dict=False, **cond)[0]
            x = scheduler.step(output, timestep, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_diffusers_transformer_samples_as_in_its_own_library(transformer: nn.Module, shift: float) -> None:
    x0 = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = their_euler(transformer, x0, prompts(2), shift)
    with torch.no_grad():
        ours = integrate(Flow(DiffusersModel(transformer)), x0, steps=STEPS, shift=shift, cond=prompts(2)).x
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (theirs - x0).abs().max() > 0.1  # an untrained network moves its input, else nothing was compared


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_diffusers_pipeline_runs_on_our_scheduler(transformer: nn.Module, method: str) -> None:
    """The pipeline's loop asks what our solver asks, so its latents are our sample, guided or not."""
    peer("transformers")
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowScheduler(method),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    x0 = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    cond, null = prompts(2), {name: torch.zeros_like(value) for name, value in prompts(2).items()}
    latents = pipeline(
        prompt_embeds=cond["encoder_hidden_states"],
        pooled_prompt_embeds=cond["pooled_projections"],
        negative_prompt_embeds=null["encoder_hidden_states"],
        negative_pooled_prompt_embeds=null["pooled_projections"],
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        height=64,
        width=64,
        latents=x0,
        output_type="latent",
    ).images
    flow = Flow(DiffusersModel(transformer), null={name: torch.zeros(value.shape[1:]) for name, value in cond.items()})
    with torch.no_grad():
        ours = integrate(flow, x0, steps=STEPS, method=method, guidance=2.0, cond=cond).x
    torch.testing.assert_close(latents, ours, atol=2e-5, rtol=1e-5)


def test_a_torchcfm_model_samples_as_with_torchdyn() -> None:
    """torchcfm's examples: a network of its own behind a wrapper of (t, x), integrated by torchdyn."""
    peer("torchcfm")
    peer("torchdyn")
    from torchcfm.models import MLP
    from torchcfm.utils import torch_wrapper
    from torchdyn.core import NeuralODE

    wrapped = torch_wrapper(MLP(dim=2, time_varying=True))
    grid = torch.linspace(0, 1, STEPS + 1)
    with torch.no_grad():
        theirs = NeuralODE(wrapped, solver="euler", sensitivity="adjoint").trajectory(points(), t_span=grid)[-1]
        ours = integrate(Flow(TimeFirst(lambda t, x: wrapped(t[0], x))), points(), steps=STEPS).x
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_torchcfm_pairs_cost_no_less_than_ours() -> None:
    """Both solve the same assignment exactly, so the costs of the plans agree."""
    peer("torchcfm")
    from torchcfm.optimal_transport import OTPlanSampler

    x0, x1 = points(64), points(64).flip(0) * 2 + 1
    plan = torch.as_tensor(OTPlanSampler(method="exact").get_map(x0, x1))
    theirs = float((plan * torch.cdist(x0.double(), x1.double()) ** 2).sum())
    coupled = MinibatchOT()(x0, x1, None, generator=torch.Generator().manual_seed(0))
    ours = float((coupled.x0 - coupled.x1).double().pow(2).sum(1).mean())
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_flow_matching_model_samples_as_in_its_own_library() -> None:
    peer("flow_matching")
    from flow_matching.solver import ODESolver

    grid = torch.linspace(0, 1, STEPS + 1)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return OURS.velocity(x, t.expand(len(x)))

    theirs = ODESolver(velocity_model=model).sample(x_init=points(), step_size=None, method="midpoint", time_grid=grid)
    ours = integrate(Flow(model), points(), steps=STEPS, method="midpoint").x
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_our_flow_is_a_field_of_torchdiffeq(method: str) -> None:
    peer("torchdiffeq")
    from torchdiffeq import odeint

    grid = torch.linspace(0, 1, 41)
    theirs = odeint(VectorField(OURS.flow()), points(), grid, method=method)[-1]
    ours = integrate(OURS.flow(), points(), steps=40, method=method).x
    # their rk4 is the 3/8 rule: equal to the order of the method, not to the last bit
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
