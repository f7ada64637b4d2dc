"""A chain that runs through itself is taken apart without breaking, and a chain that does not is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.spaces.so3 import SO3
from rectiflow_proteins.clearance import keep_clear
from rectiflow_proteins.data import grammar_folds
from rectiflow_proteins.network import BackboneNetwork
from rectiflow_proteins.reading import Segment


def hairpin_through_itself(dtype: torch.dtype = torch.float64) -> Tensor:
    """48 CA 3.8 A apart: a straight run, a round turn of 24, and a straight run across the first at a right angle."""
    headings = torch.cat((torch.zeros(12), torch.linspace(0, 1.5 * math.pi, 24), torch.full((11,), 1.5 * math.pi)))
    steps = 3.8 * torch.stack((headings.cos(), headings.sin(), torch.zeros_like(headings)), -1)
    places = torch.cat((torch.zeros(1, 3), steps.cumsum(0)))
    # A little out of the plane, so that there is a shortest way past each other.
    places[:, 2] = torch.linspace(0, 2.0, len(places))
    return places.to(dtype)[None]


def smallest_gap(places: Tensor) -> float:
    gaps = torch.cdist(places.detach(), places.detach())
    residue = torch.arange(places.shape[1])
    return float(gaps[:, residue[None] - residue[:, None] >= 3].min())


def test_a_crossing_is_taken_apart_and_stays_a_chain() -> None:
    places = hairpin_through_itself()
    mask = torch.ones(places.shape[:2], dtype=torch.bool)
    assert smallest_gap(places) < 2.5
    clear = keep_clear(places, mask, 4.0)
    assert smallest_gap(clear) > 3.7
    links = (clear[:, 1:] - clear[:, :-1]).norm(dim=-1)
    assert float((links - 3.8).abs().max()) < 0.1
    assert torch.allclose(clear[:, 22:27], places[:, 22:27], atol=0.01)  # far from the crossing


def test_two_residues_end_at_the_distance_about_the_middle_between_them() -> None:
    """Nothing else present and far apart along the chain: each goes half of what is missing."""
    places = torch.zeros(1, 40, 3, dtype=torch.float64)
    places[0, 5] = torch.tensor([1.0, 2.0, 3.0])
    places[0, 35] = places[0, 5] + 1.2 * torch.tensor([2.0, -1.0, 2.0]) / 3
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[0, [5, 35]] = True
    clear = keep_clear(places, mask, 4.0)
    way = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    assert torch.allclose(clear[0, 5], places[0, 5] - 1.4 * way, atol=1e-6)
    assert torch.allclose(clear[0, 35], places[0, 35] + 1.4 * way, atol=1e-6)
    assert torch.equal(clear[~mask], places[~mask])


def test_real_and_synthetic_chains_stay_as_they_are(crambin: Segment, bpti: Segment) -> None:
    chains = [torch.as_tensor(segment.atoms, dtype=torch.float32)[:, 1] for segment in (crambin, bpti)]
    folds, _ = grammar_folds(24, 48)
    chains += [folds.chain(i)[:, 1] for i in range(20)]
    for chain in chains:
        mask = torch.ones(1, len(chain), dtype=torch.bool)
        assert torch.equal(keep_clear(chain[None], mask, 3.8)[0], chain)


def test_it_turns_and_shifts_with_the_chain() -> None:
    places = hairpin_through_itself()
    mask = torch.ones(places.shape[:2], dtype=torch.bool)
    turn = torch.as_tensor(Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    shift = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    there = keep_clear(places @ turn.T + shift, mask, 4.0)
    assert torch.allclose(there, keep_clear(places, mask, 4.0) @ turn.T + shift, atol=1e-9)


def test_coincident_residues_give_finite_places_and_gradients() -> None:
    places = hairpin_through_itself()
    places[0, 40] = places[0, 3]
    places.requires_grad_()
    clear = keep_clear(places, torch.ones(places.shape[:2], dtype=torch.bool), 4.0)
    clear.square().sum().backward()
    assert torch.isfinite(clear).all()
    assert places.grad is not None
    assert torch.isfinite(places.grad).all()


@pytest.mark.parametrize(("t", "training", "clearance"), [(0.1, False, 4.0), (0.9, True, 4.0), (0.9, False, 0.0)])
def test_the_network_keeps_estimates_clear_in_late_sampling_only(t: float, training: bool, clearance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    network = BackboneNetwork(width=32, pair_width=8, blocks=1, heads=2, clearance=4.0, generator=draw)
    places = hairpin_through_itself(torch.float32)
    x = {
        "translations": places - places.mean(1, keepdim=True),
        "rotations": SO3().sample_prior((*places.shape[:2], 4), draw),
    }
    cond = {
        "mask": torch.ones(places.shape[:2], dtype=torch.bool),
        "content": torch.full((1, 2), -1.0),
        "labels": torch.full(places.shape[:2], 3),
        "self_condition": {name: torch.zeros_like(part) for name, part in x.items()},
    }
    kept = network.eval()(x, torch.tensor([0.9]), **cond)["translations"]
    assert smallest_gap(kept) > 3.3
    network.train(training)
    network.clearance = clearance
    assert smallest_gap(network(x, torch.tensor([t]), **cond)["translations"]) < 3


@pytest.mark.parametrize("clearance", [-1.0, 5.0, math.nan])
def test_distances_that_chains_come_nearer_than_are_refused(clearance: float) -> None:
    with pytest.raises(ConfigError, match="clearance"):
        BackboneNetwork(width=32, blocks=1, clearance=clearance, generator=torch.Generator())
