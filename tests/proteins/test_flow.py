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
from rectiflow_proteins.frames import atoms_from_frames, frames_from_atoms
from rectiflow_proteins.losses import clash_loss, link_loss
from rectiflow_proteins.torsions import atoms_from_torsions


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


def test_the_link_loss_counts_late_faults_in_nanometres() -> None:
    torsions = torch.deg2rad(torch.tensor([-63.0, -43.0, 180.0], dtype=torch.float64)).expand(2, 9, 3)
    q, places = frames_from_atoms(atoms_from_torsions(torsions))
    mask = torch.arange(9).expand(2, 9) < torch.tensor([[9], [6]])
    late, early = torch.tensor([0.75, 0.75], dtype=torch.float64), torch.tensor([0.2, 0.2], dtype=torch.float64)
    # Between ideal residues only CA-CA, 3.80 A in round numbers, is off.
    assert link_loss({"translations": places, "rotations": q}, late, mask) < 1e-4
    atoms = atoms_from_frames(q, places)[0]
    along = atoms[4, 0] - atoms[3, 2]
    pulled = places.clone()
    pulled[:, 4:] += 0.6 * along / along.norm()
    broken = {"translations": pulled, "rotations": q}
    # The bond is 0.6 A too long, its projections on both neighbours too, CA-CA a little less.
    step = (pulled[0, 4] - pulled[0, 3]).norm() / 10 - 0.38
    shares = [math.cos(math.radians(angle)) ** 2 for angle in (116.6, 121.7)]
    squares = 0.06**2 * (1 + sum(shares)) + step**2
    expected = 4 * squares * (1 / 8 + 1 / 5) / 2 / 0.3**2
    torch.testing.assert_close(link_loss(broken, late, mask), expected, rtol=5e-3, atol=1e-5)
    assert link_loss(broken, early, mask) == 0


def test_the_clash_loss_counts_late_overlaps_of_residues_that_are_no_neighbours() -> None:
    line = torch.zeros(3, 8, 3, dtype=torch.float64)
    line[..., 0] = 5 * torch.arange(8)
    mask = torch.arange(8).expand(3, 8) < torch.tensor([[8], [6], [8]])
    line[0, 6] = line[0, 2] + torch.tensor([0.0, 3.0, 0.0])  # 0.7 A too close
    line[1, 7] = line[1, 2]  # padding
    line[2, 4] = line[2, 2] + torch.tensor([0.0, 1.0, 0.0])  # neighbours but one
    line.requires_grad_()
    estimate = {"translations": line, "rotations": torch.zeros(3, 8, 4, dtype=torch.float64)}
    late, early = torch.full((3,), 0.95, dtype=torch.float64), torch.full((3,), 0.2, dtype=torch.float64)
    loss = clash_loss(estimate, late, mask)
    torch.testing.assert_close(float(loss.detach()), 20 * 0.07**2 / 8 / 0.25**2 / 3, rtol=1e-6, atol=0)
    assert clash_loss(estimate, early, mask) == 0
    # Downhill is apart, and residues in one place have a finite gradient.
    (slope,) = torch.autograd.grad(loss, line)
    assert slope[0, 6, 1] < 0 < slope[0, 2, 1]
    together = torch.zeros(1, 8, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(clash_loss({"translations": together}, late[:1], mask[:1]), together)
    assert bool(slope.isfinite().all())
