"""Scaffolding: a motif is held wherever it fits, by guidance alone, and the loss knows no place and no direction."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.interpolants import Exponential
from rectiflow.sampling import integrate
from rectiflow.schedules import scheduled
from rectiflow.spaces import quaternions
from rectiflow.spaces.so3 import SO3
from rectiflow_proteins.batches import conditions_of
from rectiflow_proteins.flow import FrameNoise, backbone_flow, settled
from rectiflow_proteins.scaffold import motif_atoms
from rectiflow_proteins.scaffolding import Motif, hold, motif_rmsd, scaffold

SIZE = 20


def noise(batch: int, seed: int) -> dict[str, Tensor]:
    state = FrameNoise()(
        {"translations": (batch, SIZE, 3), "rotations": (batch, SIZE, 4)},
        cond={},
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    assert isinstance(state, dict)
    return state


def motif(seed: int = 5) -> Motif:
    x = noise(1, seed)
    return Motif(torch.tensor([3, 4, 5, 6, 11, 12]), 0.4 * x["translations"][0, :6], x["rotations"][0, :6])


def moved(x: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    g = torch.tensor(Rotation.random(random_state=seed).as_quat(scalar_first=True)).expand_as(x["rotations"])
    places = quaternions.rotate(g, x["translations"]) + torch.tensor([5.0, -3.0, 8.0])
    return {"translations": places, "rotations": quaternions.multiply(g, x["rotations"])}


def with_motif(x: dict[str, Tensor], held: Motif) -> dict[str, Tensor]:
    x = {name: part.clone() for name, part in x.items()}
    x["translations"][:, held.places], x["rotations"][:, held.places] = held.translations, held.rotations
    return x


def whole(batch: int) -> Tensor:
    return torch.ones(batch, SIZE, dtype=torch.bool)


def test_a_held_estimate_has_the_motif_and_moves_with_the_world() -> None:
    held, x = motif(), noise(3, 1)
    found = hold(x, held, whole(3))
    assert motif_rmsd(held, found["translations"]).max() < 1e-6
    turns = found["rotations"][:, held.places]
    between = quaternions.multiply(quaternions.conjugate(turns[:, :1]), turns)
    expected = quaternions.multiply(quaternions.conjugate(held.rotations[:1]), held.rotations).expand_as(between)
    assert SO3().separation(between, expected).max() < 1e-6
    # The CA of the motif and the axes of its frames go by the same turn.
    ends = quaternions.rotate(
        quaternions.conjugate(turns[:, :1]), found["translations"][:, held.places[1:]] - found["translations"][:, 3:4]
    )
    seen = quaternions.rotate(quaternions.conjugate(held.rotations[:1]), held.translations[1:] - held.translations[0])
    torch.testing.assert_close(ends, seen.expand_as(ends))
    again = hold(moved(x, 3), held, whole(3))
    there = moved(found, 3)
    apart = again["translations"] - again["translations"].mean(1, keepdim=True)
    torch.testing.assert_close(apart, there["translations"] - there["translations"].mean(1, keepdim=True))
    assert SO3().separation(again["rotations"], there["rotations"]).max() < 1e-6


def test_what_is_right_stays_and_neighbours_go_along_a_share_of_the_way() -> None:
    held = motif()
    there = with_motif(noise(1, 1), held)
    there = settled(there, whole(1))
    kept = hold(there, held, whole(1))
    torch.testing.assert_close(kept["translations"], there["translations"])
    bent = {name: part.clone() for name, part in there.items()}
    wrong = Rotation.from_rotvec([0.0, 0.5, 0.0])
    q = torch.tensor(wrong.as_quat(scalar_first=True))
    bent["rotations"][0, 6] = quaternions.multiply(q, there["rotations"][0, 6])
    found = hold(bent, held, whole(1))
    assert SO3().separation(found["rotations"][0, 6], there["rotations"][0, 6]) < 1e-7
    # Residues 7 and 8 turn back about the CA of 6 by exp(-1/2) and exp(-1) of half a radian; 9 and 10 belong to 11.
    centre = bent["translations"][0, 6].numpy()
    shift = (found["translations"] - there["translations"])[0, 0]
    for residue, gap in ((7, 1), (8, 2)):
        back = Rotation.from_rotvec([0.0, -0.5 * math.exp(-gap / 2), 0.0])
        expected = centre + back.apply(bent["translations"][0, residue].numpy() - centre)
        torch.testing.assert_close(found["translations"][0, residue] - shift, torch.tensor(expected))
    torch.testing.assert_close(found["translations"][0, 9:] - shift, bent["translations"][0, 9:])
    half = hold(bent, held, whole(1), strength=0.5)
    left = SO3().separation(half["rotations"][0, 6], there["rotations"][0, 6])
    torch.testing.assert_close(float(left), 0.25)


class Oracle:
    """Its estimate is a structure without the motif, pulled to the state: it follows what guidance does."""

    def __init__(self, data: dict[str, Tensor]) -> None:
        self.data = data

    def __call__(self, x: dict[str, Tensor], t: Tensor, **cond: object) -> dict[str, Tensor]:
        share = t[:, None, None]
        turn = share * SO3().log(self.data["rotations"], x["rotations"])
        return {
            "translations": (1 - share) * self.data["translations"] + share * x["translations"],
            "rotations": SO3().exp(self.data["rotations"], turn),
        }


def test_guidance_holds_a_motif_that_the_flow_does_not_know() -> None:
    held, data, x0 = motif(), noise(3, 1), noise(3, 2)
    flow = backbone_flow(Oracle(data), self_conditioning=False)
    mask = torch.ones(3, SIZE, dtype=torch.bool)
    cond = {"mask": mask}
    free = integrate(flow, x0, steps=50, cond=cond).x
    guided = scaffold(flow, x0, held, cond, steps=50)
    assert guided.nfe == 50
    assert motif_rmsd(held, free["translations"]).min() > 3
    # The last state is a fiftieth short, and the last estimate, the oracle's own, goes a fiftieth back.
    assert (motif_rmsd(held, guided.x["translations"]) / motif_rmsd(held, free["translations"])).max() < 3 / 50
    assert motif_rmsd(held, guided.x["translations"]).min() > 0.1
    # What is far along the chain goes where it was going, what is near goes along.
    apart = (guided.x["translations"] - free["translations"]).norm(dim=-1).mean(0)
    assert apart[19] < 1.5
    assert apart[19] < apart[16] < apart[13]


def test_a_motif_must_fit_into_every_chain() -> None:
    cond = conditions_of(
        torch.zeros(2, SIZE, dtype=torch.long), torch.arange(SIZE) < torch.tensor([[20], [12]]), ["content"] * 2
    )
    with pytest.raises(ConfigError, match="residue 13; the shortest chain has 12"):
        motif().conditions(cond)
    fits = motif().conditions({name: part[:1] for name, part in cond.items()})
    assert fits["motif"].sum() == 6
    torch.testing.assert_close(fits["motif_translations"][0, 11], motif().translations[4])


@pytest.mark.parametrize("places", [[1, 2], [3, 2, 5], [-1, 2, 3]])
def test_malformed_motifs_are_refused(places: list[int]) -> None:
    count = len(places)
    with pytest.raises(ConfigError, match="places"):
        Motif(torch.tensor(places), torch.zeros(count, 3), torch.zeros(count, 4))


def test_rmsd_of_a_motif_is_after_superposition() -> None:
    held = motif()
    there = moved(with_motif(noise(1, 1), held), 7)
    assert motif_rmsd(held, there["translations"]).item() < 1e-6
    there["translations"][0, held.places[0]] += torch.tensor([1.0, 0, 0])
    assert 0.1 < motif_rmsd(held, there["translations"]).item() < 1 / math.sqrt(6)


def test_ranges_of_motifs_are_checked(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from rectiflow_proteins.grammar import generate_folds
    from rectiflow_proteins.output import write_structure

    fold = generate_folds([24], torch.Generator().manual_seed(0))[0]
    path = write_structure(tmp_path / "fold.pdb", [fold.atoms])
    assert motif_atoms(path, "").shape == (24, 4, 3)
    torch.testing.assert_close(motif_atoms(path, "5-16").float(), fold.atoms[4:16].float(), rtol=0, atol=2e-3)
    for wrong in ("5", "16-5", "0-9", "20-25", "5-6", "a-b"):
        with pytest.raises(ConfigError, match="residues"):
            motif_atoms(path, wrong)


def test_guidance_works_on_the_exponential_schedule_in_single_precision() -> None:
    """Near the end exp(-20 t) is below the rounding of 1: what is left of the way must not be computed as 1 - a."""
    held, data, x0 = motif(), noise(2, 1), noise(2, 2)
    single = [{name: part.float() for name, part in state.items()} for state in (data, x0)]
    flow = scheduled(backbone_flow(Oracle(single[0]), self_conditioning=False), {"rotations": Exponential(20.0)})
    cond = {"mask": torch.ones(2, SIZE, dtype=torch.bool)}
    guided = scaffold(flow, single[1], held, cond, steps=50)
    assert motif_rmsd(held, guided.x["translations"]).max() < 0.6
