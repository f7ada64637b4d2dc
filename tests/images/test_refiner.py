"""A refiner beside the U-Net: the teacher's weights fit, it starts by leaving the velocity alone, and learns by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.trained import load_what_fits
from rectiflow_images.unet import UNet


@pytest.fixture(autouse=True)
def single(float32: None) -> None:
    """Networks are tested in the dtype that they train in."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unet(refiner: int, seed: int = 0) -> UNet:
    return UNet(1, 8, 3, 16, head_width=8, refiner=refiner, generator=seeded(seed))


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, velocity = torch.randn(2, 4, 1, 8, 8, generator=seeded(1))
    return x, torch.tensor([0.0, 0.3, 0.5, 0.9]), torch.tensor([0, 1, 2, 3]), velocity


def test_a_refiner_starts_from_the_teacher_and_from_no_correction() -> None:
    teacher, student = unet(0), unet(8, seed=5)
    with torch.no_grad():
        teacher.output.weight.normal_(generator=seeded(2))
    load_what_fits(student, teacher.state_dict())
    x, t, label, velocity = inputs()
    assert torch.equal(student(x, t, label), teacher(x, t, label))
    correction = student(x, t, label, velocity=velocity)
    assert torch.equal(correction, torch.zeros_like(x))
    correction.sum().backward()
    assert {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None} == {"refiner"}
    assert sum(p.numel() for p in student.refiner.parameters()) < 0.3 * sum(p.numel() for p in teacher.parameters())  # type: ignore[union-attr]
    # It is sampled at once, with the last velocity held where nothing is corrected yet.
    flow = Flow(student.requires_grad_(False), refines=True)
    found = integrate(flow, x, steps=3, method="flow_turbo", cond={"label": label})
    assert found.nfe == 3


def test_a_network_without_one_says_so() -> None:
    x, t, label, velocity = inputs()
    with pytest.raises(ConfigError, match=r"model\.refiner=8"):
        unet(0)(x, t, label, velocity=velocity)
