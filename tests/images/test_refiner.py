"""A refiner beside a network: the teacher's weights fit, it starts by leaving the velocity alone, and learns by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.method import Support
from rectiflow.rectify.refiner import FlowTurbo
from rectiflow.sampling import integrate
from rectiflow.trained import load_what_fits
from rectiflow_images.transformer import Transformer
from rectiflow_images.unet import UNet


@pytest.fixture(autouse=True)
def single(float32: None) -> None:
    """Networks are tested in the dtype that they train in."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(kind: str, refiner: int, seed: int = 0) -> UNet | Transformer:
    generator = seeded(seed)
    if kind == "unet":
        return UNet(1, 8, 3, 16, head_width=8, refiner=refiner, generator=generator)
    positions, mlp = ("rope", "swiglu") if kind == "fit" else ("sincos", "gelu")
    return Transformer(
        1,
        8,
        3,
        width=32,
        depth=2,
        heads=4,
        positions=positions,  # type: ignore[arg-type]
        mlp=mlp,  # type: ignore[arg-type]
        refiner=refiner,
        generator=generator,
    )


KINDS = ["unet", "sit", "fit"]


def move_output(teacher: UNet | Transformer) -> None:
    """Weights of the last layer off zero, so that there is a velocity."""
    last = teacher.output if isinstance(teacher, UNet) else teacher.output.output
    with torch.no_grad():
        last.weight.normal_(std=0.2, generator=seeded(2))


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, velocity = torch.randn(2, 4, 1, 8, 8, generator=seeded(1))
    return x, torch.tensor([0.0, 0.3, 0.5, 0.9]), torch.tensor([0, 1, 2, 3]), velocity


@pytest.mark.parametrize("kind", KINDS)
def test_a_refiner_starts_from_the_teacher_and_from_no_correction(kind: str) -> None:
    teacher, student = network(kind, 0), network(kind, 8, seed=5)
    move_output(teacher)
    load_what_fits(student, teacher.state_dict())
    x, t, label, velocity = inputs()
    assert torch.equal(student(x, t, label), teacher(x, t, label))
    correction = student(x, t, label, velocity=velocity)
    assert torch.equal(correction, torch.zeros_like(x))
    correction.sum().backward()
    assert {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None} == {"refiner"}
    assert isinstance(student.refiner, nn.Module)
    assert weights(student.refiner) < 0.3 * weights(teacher)
    # It is sampled at once, with the last velocity held where nothing is corrected yet.
    flow = Flow(student.requires_grad_(False), refines=True)
    found = integrate(flow, x, steps=3, method="flow_turbo", cond={"label": label})
    assert found.nfe == 3


def test_a_refiner_of_a_transformer_learns_while_the_rest_stays() -> None:
    """Its loss starts at how much the velocity changes in a step; the correction takes a good part of that away."""
    teacher, student = network("sit", 0), network("sit", 16, seed=5)
    move_output(teacher)
    with torch.no_grad():
        assert isinstance(teacher, Transformer)
        teacher.output.modulation.weight.normal_(std=0.2, generator=seeded(3))
    load_what_fits(student, teacher.state_dict())
    support = Support(Flow(teacher.requires_grad_(False)))
    optimiser = torch.optim.Adam(student.parameters(), 1e-2)
    generator, losses = seeded(), []
    for _ in range(100):
        x1 = torch.randn(8, 1, 8, 8, generator=generator)
        label = torch.randint(3, (8,), generator=generator)
        loss, _ = FlowTurbo().loss(Flow(student), Batch(x1, {"label": label}), generator, support=support)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    own = student.state_dict()
    assert all(torch.equal(own[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("kind", ["unet", "sit"])
def test_a_network_without_one_says_so(kind: str) -> None:
    x, t, label, velocity = inputs()
    with pytest.raises(ConfigError, match=r"build it with one: model\.refiner="):
        network(kind, 0)(x, t, label, velocity=velocity)
