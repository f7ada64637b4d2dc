"""Figures: natives pass them, what is broken on purpose fails exactly the one that looks at it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from rectiflow_proteins.data import Chains, grammar_folds
from rectiflow_proteins.metrics import (
    METRICS,
    allowed,
    circular_wasserstein,
    compare,
    contact_order,
    diversity,
    evaluate,
    figures,
    gyration_ratio,
    novelty,
    smallest_gap,
    summarise,
)
from rectiflow_proteins.reading import Segment
from rectiflow_proteins.secondary import secondary_structure
from rectiflow_proteins.torsions import atoms_from_torsions


@pytest.fixture(scope="module")
def chains() -> Chains:
    return grammar_folds(30, 36)[1]


def measured(*atoms: Tensor) -> dict[str, float]:
    return figures(atoms, secondary_structure([chain[:, 1] for chain in atoms]))


def test_natives(crambin: Segment, bpti: Segment) -> None:
    found = measured(crambin.atoms, bpti.atoms)
    assert found["ca_valid"] == 1.0
    assert found["ca_strict"] > 0.97
    assert found["clash_free"] == 1.0
    assert abs(found["peptide_mean"] - 1.33) < 0.02
    assert found["peptide_sd"] < 0.03
    assert found["peptide_valid"] == 1.0
    assert found["planar"] == 1.0
    assert found["ramachandran"] > 0.95
    assert found["bend_error"] < 3
    assert 0.9 < found["gyration"] < 1.2
    # By the headers of these entries: helices in 40 to 50 % of crambin and about 20 % of BPTI, strands in both.
    assert 0.15 < found["helix"] < 0.45
    assert 0.05 < found["strand"] < 0.4


def test_stretching_fails_the_distances(crambin: Segment) -> None:
    found = measured(crambin.atoms * 1.05)
    assert found["ca_strict"] < 0.1
    assert found["ca_valid"] == 1.0
    assert measured(crambin.atoms * 1.2)["ca_valid"] < 0.1


def test_a_moved_half_fails_one_link(crambin: Segment) -> None:
    broken = crambin.atoms.clone()
    broken[23:] += torch.tensor([30.0, 0, 0], dtype=broken.dtype)
    found, whole = measured(broken), measured(crambin.atoms)
    assert found["ca_valid"] == pytest.approx(whole["ca_valid"] - 1 / 45)
    assert found["peptide_valid"] == pytest.approx(whole["peptide_valid"] - 1 / 45)


def test_clashes_count_chains(crambin: Segment) -> None:
    folded_over = crambin.atoms.clone()
    folded_over[40] = folded_over[3] + 1.0
    assert measured(folded_over, crambin.atoms)["clash_free"] == 0.5
    assert smallest_gap(crambin.atoms[:, 1]) > 3.5
    # Neighbours and next neighbours may be close.
    line = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [2.0, 2.0, 0], [9.0, 9.0, 9.0]])
    assert float(smallest_gap(line)) == pytest.approx(math.sqrt(243))


def test_mirror_images_show_in_the_torsions(crambin: Segment) -> None:
    mirrored = crambin.atoms * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    assert measured(crambin.atoms)["positive_phi"] < 0.15
    assert measured(mirrored)["positive_phi"] > 0.85
    assert measured(mirrored)["ramachandran"] < measured(crambin.atoms)["ramachandran"] - 0.15


def test_the_allowed_regions() -> None:
    inside = torch.deg2rad(torch.tensor([[-63.0, -43], [-120, 130], [-70, 150], [57, 45], [60, -120], [-100, 5]]))
    outside = torch.deg2rad(torch.tensor([[0.0, 0], [100, 150], [-100, -120], [10, -60]]))
    assert allowed(inside).all()
    assert not allowed(outside).any()


def test_cis_peptides_and_twisted_ones() -> None:
    torsions = torch.deg2rad(torch.tensor([[-80.0, 140.0, 180.0]], dtype=torch.float64)).expand(20, 3).clone()
    torsions[9, 2] = 0.0
    torsions[4, 2] = math.pi / 2
    found = measured(atoms_from_torsions(torsions))
    assert found["ca_cis"] == pytest.approx(1 / 19)
    assert found["planar"] == pytest.approx(18 / 19)


def test_an_ideal_helix() -> None:
    helix = atoms_from_torsions(torch.deg2rad(torch.tensor([-60.0, -45.0, 180.0], dtype=torch.float64)).expand(30, 3))
    states = secondary_structure([helix[:, 1]])[0]
    assert (states[2:-2] == 1).double().mean() > 0.9
    strand = atoms_from_torsions(torch.deg2rad(torch.tensor([-120.0, 130.0, 180.0], dtype=torch.float64)).expand(12, 3))
    assert (secondary_structure([strand[:, 1]])[0][2:-2] == 2).all()


def test_size_and_contact_order() -> None:
    angle = torch.linspace(0, 2 * math.pi, 101)[:-1]
    circle = 27 * torch.stack((angle.cos(), angle.sin(), 0 * angle), 1)
    assert float(gyration_ratio(circle)) == pytest.approx(27 / (2.2 * 100**0.38), rel=1e-5)
    # Steps of 1.70 A: within 8 A are those up to 4 apart, 6.8 A, not 5, 8.5 A, and, around the ring, 96 to 99.
    pairs = [(i, j) for i in range(100) for j in range(i) if i - j >= 3 and (i - j <= 4 or i - j >= 96)]
    expected = sum(i - j for i, j in pairs) / len(pairs) / 100
    assert float(contact_order(circle)) == pytest.approx(expected, rel=1e-4)


def test_wasserstein_on_the_circle(generator: torch.Generator) -> None:
    first = 0.3 * torch.randn(4000, generator=generator)
    shifted = first + 0.5
    plain = math.degrees(wasserstein_distance(first.numpy(), shifted.numpy()))
    assert circular_wasserstein(first, shifted) == pytest.approx(plain, abs=1.5)
    wrapped = torch.atan2((first + math.pi).sin(), (first + math.pi).cos())
    also = torch.atan2((shifted + math.pi).sin(), (shifted + math.pi).cos())
    assert circular_wasserstein(wrapped, also) == pytest.approx(plain, abs=1.5)
    assert circular_wasserstein(first, first) == 0


def test_distributions_tell_data_from_noise(chains: Chains, generator: torch.Generator) -> None:
    atoms = [chains.chain(i) for i in range(60)]
    states = [chains.states(i) for i in range(60)]
    half = compare(summarise(atoms[::2], states[::2]), summarise(atoms[1::2], states[1::2]))
    noisy = [chain + 0.7 * torch.randn(chain.shape, generator=generator) for chain in atoms[::2]]
    broken = compare(summarise(noisy, states[::2]), summarise(atoms[1::2], states[1::2]))
    for name in ("w_phi", "w_psi", "w_ca2", "w_ca3", "w_ca4"):
        assert broken[name] > 2 * half[name]
    assert abs(half["gyration_ratio"] - 1) < 0.06
    larger = compare(summarise([1.5 * chain for chain in atoms], states), summarise(atoms, states))
    assert larger["gyration_ratio"] == pytest.approx(1.5, rel=1e-4)
    assert larger["helix_error"] == 0


def test_diversity_and_novelty(chains: Chains) -> None:
    atoms = [chains.chain(i) for i in range(12)]
    same = diversity([atoms[0]] * 3)
    assert same["tm_pairwise"] == pytest.approx(1, abs=1e-3)
    assert same["folds"] == pytest.approx(1 / 3)
    varied = diversity(atoms[:6])
    assert varied["tm_pairwise"] < 0.7
    assert varied["folds"] > 0.25
    assert novelty(atoms[:2], atoms) == pytest.approx(1, abs=1e-3)
    assert novelty(atoms[:2], atoms[2:]) < 0.95


def test_every_listed_metric_is_measured(chains: Chains) -> None:
    atoms = [chains.chain(i) for i in range(8)]
    summary = summarise(atoms, [chains.states(i) for i in range(8)])
    found = evaluate(atoms[:4], summary, atoms)
    assert {metric.name for metric in METRICS} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
