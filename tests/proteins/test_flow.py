"""The flow of backbones: its noise, its symmetric sampler, and its losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.interpolants import Exponential
from rectiflow.matching import FlowMatching
from rectiflow.sampling import integrate
from rectiflow.schedules import scheduled
from rectiflow.spaces.so3 import SO3
from rectiflow_proteins.flow import FrameNoise, backbone_flow, backbone_space, settled
from rectiflow_proteins.frames import atoms_from_frames
from rectiflow_proteins.losses import atom_losses, softly_capped


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shape(batch: int, size: int) -> dict[str, tuple[int, ...]]:
    return {"translations": (batch, size, 3), "rotations": (batch, size, 4)}


def noise(batch: int, size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    mask = torch.ones(batch, size, dtype=torch.bool)
    options = {"cond": {"mask": mask}, "generator": generator(seed), "device": torch.device("cpu"), "dtype": dtype}
    state = FrameNoise()(shape(batch, size), **options)  # type: ignore[arg-type]
    assert isinstance(state, dict)
    return state


def test_noise_is_centred_with_ten_angstrom_and_uniform_turns() -> None:
    count, size = 4000, 16
    x = noise(count, size)
    assert x["translations"].mean(1).abs().max() < 1e-5
    spread = float(x["translations"].std())
    expected = 10 * math.sqrt(1 - 1 / size)
    assert abs(spread / expected - 1) < 4 / math.sqrt(2 * count * (size - 1) * 3)
    angles = torch.linalg.vector_norm(
        SO3().log(torch.tensor([1.0, 0, 0, 0]).expand(count, size, 4), x["rotations"]), dim=-1
    )
    # Mean angle of uniform rotations: pi / 2 + 2 / pi; its standard deviation is 0.65.
    assert abs(float(angles.mean()) - (math.pi / 2 + 2 / math.pi)) < 4 * 0.65 / math.sqrt(count * size)


def test_padding_of_noise_stays_at_the_origin() -> None:
    mask = torch.arange(12).expand(3, 12) < torch.tensor([[12], [9], [5]])
    options = {"generator": generator(), "device": torch.device("cpu"), "dtype": torch.float64}
    x = FrameNoise()(shape(3, 12), cond={"mask": mask}, **options)  # type: ignore[arg-type]
    assert isinstance(x, dict)
    assert x["translations"][~mask].abs().max() == 0
    assert (x["rotations"][~mask] == torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)).all()
    assert (x["translations"] * mask[..., None]).sum(1).abs().max() < 1e-12


def test_noise_is_the_generator_s_and_only_frames() -> None:
    for one, other in zip(noise(2, 5, 3).values(), noise(2, 5, 3).values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ConfigError, match="translations and rotations"):
        FrameNoise()((2, 3), cond={}, generator=None, device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(ConfigError, match="scale 0"):
        FrameNoise(0)


class Oracle:
    """Knows the data, whatever the state; quaternions of either sign."""

    def __init__(self, data: dict[str, Tensor]) -> None:
        self.data = data

    def __call__(self, x: dict[str, Tensor], t: Tensor, **cond: object) -> dict[str, Tensor]:
        sign = torch.where((x["rotations"] * self.data["rotations"]).sum(-1, keepdim=True) > 0, -1.0, 1.0)
        return {"translations": self.data["translations"], "rotations": sign * self.data["rotations"]}


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 50])
def test_an_oracle_s_samples_are_the_data_for_any_number_of_steps(steps: int) -> None:
    data, x0 = noise(2, 9, 1, torch.float64), noise(2, 9, 2, torch.float64)
    flow = backbone_flow(Oracle(data))
    x = integrate(flow, x0, steps=steps).x
    # The velocity is taken at least 1e-3 before the end.
    assert SO3().distance(x["rotations"], data["rotations"]).max() < 1e-9
    torch.testing.assert_close(x["translations"], data["translations"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 50, 500])
def test_exponential_rotations_leave_the_same_angle_for_any_number_of_steps(steps: int) -> None:
    data, x0 = noise(2, 9, 1, torch.float64), noise(2, 9, 2, torch.float64)
    flow = scheduled(backbone_flow(Oracle(data)), {"rotations": Exponential(10.0)})
    x = integrate(flow, x0, steps=steps, method="ddim").x
    left = SO3().distance(x["rotations"], data["rotations"]) / SO3().distance(x0["rotations"], data["rotations"])
    torch.testing.assert_close(left, torch.full_like(left, math.exp(-10)), rtol=1e-6, atol=0)
    torch.testing.assert_close(x["translations"], data["translations"], rtol=0, atol=1e-9)


def test_the_loss_is_the_published_one() -> None:
    """2 |dx / 10|^2 / 3 + |Log(q^-1 q1) - Log(q^-1 q1_hat)|^2 / 3, over (1 - min(t, 0.9))^2, per residue that is there."""
    torch.manual_seed(0)
    data, guess = noise(3, 8, 1, torch.float64), noise(3, 8, 4, torch.float64)
    mask = torch.arange(8).expand(3, 8) < torch.tensor([[8], [6], [5]])
    data, guess = settled(data, mask), settled(guess, mask)
    flow = backbone_flow(lambda x, t, **cond: guess)
    draw = flow.draw(data, {"mask": mask}, mask=mask, generator=generator(5))
    loss = flow.regression(guess, draw, weight="velocity", weight_margin=0.1)
    count = mask.sum(1)
    places = 2 * ((guess["translations"] - data["translations"]) / 10).square().sum((1, 2)) / (3 * count)
    q = draw.xt["rotations"]  # type: ignore[index]
    turns = (
        ((SO3().log(q, data["rotations"]) - SO3().log(q, guess["rotations"])) * mask[..., None]).square().sum((1, 2))
    )
    expected = ((places + turns / (3 * count)) / (1 - draw.t.clamp(max=0.9)).square()).mean()
    torch.testing.assert_close(loss, expected)


def test_the_loss_vanishes_at_the_data_with_finite_gradients() -> None:
    data = noise(2, 6, 1)
    batch = Batch(x1=data, cond={"mask": torch.ones(2, 6, dtype=torch.bool)}, x0=data)
    guess = {name: part.clone().requires_grad_() for name, part in data.items()}
    flow = backbone_flow(lambda x, t, **cond: guess)
    loss, _ = FlowMatching(weight="velocity", weight_margin=0.01).loss(flow, batch, generator())
    assert loss.item() < 1e-8
    loss.backward()  # type: ignore[no-untyped-call]
    for part in guess.values():
        assert part.grad is not None
        assert torch.isfinite(part.grad).all()


def test_weights_of_translations_are_squared_nanometres() -> None:
    space = backbone_space()
    x, y = noise(1, 4, 1, torch.float64), noise(1, 4, 2, torch.float64)
    expected = 2 * ((x["translations"] - y["translations"]) / 10).square().sum()
    expected += SO3().distance(x["rotations"], y["rotations"]).square().sum()
    torch.testing.assert_close(space.distance(x, y).square().sum(), expected)


def test_atom_losses_count_atoms_and_near_distances() -> None:
    data = noise(1, 5, 1, torch.float64)
    moved = {"translations": data["translations"] + torch.tensor([3.0, 0, 0]), "rotations": data["rotations"]}
    mask = torch.ones(1, 5, dtype=torch.bool)
    late, early = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    atoms, distances = atom_losses(moved, data, late, mask, gate=0.5, margin=0.1)
    # A shift of 3 A moves every atom by 0.3 nm and no distance; 1 / (1 - 0.8)^2 = 25.
    torch.testing.assert_close(atoms, softly_capped(torch.tensor(25 * 0.09, dtype=torch.float64)))
    assert distances < 1e-12
    assert sum(float(loss) for loss in atom_losses(moved, data, early, mask, gate=0.5, margin=0.1)) == 0
    wider = {"translations": 1.1 * data["translations"], "rotations": data["rotations"]}
    truth = 0.1 * atoms_from_frames(data["rotations"], data["translations"]).flatten(1, 2)[0]
    guess = 0.1 * atoms_from_frames(wider["rotations"], wider["translations"]).flatten(1, 2)[0]
    near = torch.cdist(truth, truth) < 0.8
    expected = (torch.cdist(guess, guess) - torch.cdist(truth, truth))[near].square().mean()
    torch.testing.assert_close(atom_losses(wider, data, late, mask, gate=0.5, margin=0.1)[1], softly_capped(expected))


def test_the_soft_cap_has_a_gradient_everywhere() -> None:
    x = torch.tensor([1e-4, 1.0, 1e4], requires_grad=True)
    capped = softly_capped(x, 5.0)
    torch.testing.assert_close(capped[0], x[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(capped[2], torch.tensor(math.sqrt(2 * 5 * 1e4)), rtol=0.03, atol=0)
    (slope,) = torch.autograd.grad(capped.sum(), x)
    assert (slope > 0.01).all()
