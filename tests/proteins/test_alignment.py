"""Superposition against scipy, TM-scores against biotite's."""

from __future__ import annotations

import biotite.structure
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow_proteins.alignment import mean_distance, rmsd, superpose, tm_scores
from rectiflow_proteins.data import grammar_folds
from rectiflow_proteins.reading import Segment


def moved(points: Tensor, generator: torch.Generator) -> Tensor:
    turn = Rotation.from_quat(torch.randn(4, generator=generator).numpy()).as_matrix()
    return points @ torch.tensor(turn, dtype=points.dtype).mT + torch.tensor([3.0, -8.0, 20.0], dtype=points.dtype)


def test_superposition_agrees_with_scipy(generator: torch.Generator) -> None:
    mobile, fixed = torch.randn(2, 30, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(30, dtype=torch.float64, generator=generator)
    rotation, shift = superpose(mobile, fixed, weights)
    share = weights / weights.sum()
    centres = [(share[:, None] * points).sum(0) for points in (mobile, fixed)]
    theirs, _ = Rotation.align_vectors(
        (fixed - centres[1]).numpy(), (mobile - centres[0]).numpy(), weights=weights.numpy()
    )
    np.testing.assert_allclose(rotation.numpy(), theirs.as_matrix(), atol=1e-7)
    torch.testing.assert_close(rotation @ centres[0] + shift, centres[1])


def test_rmsd_is_biotites_and_not_the_mean_distance(crambin: Segment, generator: torch.Generator) -> None:
    first = crambin.atoms[:, 1]
    second = moved(first + torch.randn(first.shape, dtype=first.dtype, generator=generator), generator)
    fitted, _ = biotite.structure.superimpose(second.float().numpy(), first.float().numpy())
    expected = float(biotite.structure.rmsd(second.float().numpy(), fitted))
    assert abs(float(rmsd(first, second)) - expected) < 1e-4
    gaps = torch.linalg.vector_norm(torch.tensor(fitted) - second.float(), dim=-1)
    assert abs(float(mean_distance(first, second)) - float(gaps.mean())) < 1e-4
    assert float(mean_distance(first, second)) < 0.97 * expected
    assert rmsd(first, moved(first, generator)) < 1e-6


def test_no_superposition_mirrors(crambin: Segment) -> None:
    alphas = crambin.atoms[:, 1]
    mirrored = alphas * torch.tensor([-1.0, 1.0, 1.0], dtype=alphas.dtype)
    assert torch.linalg.det(superpose(alphas, mirrored)[0]) > 0.999
    assert rmsd(alphas, mirrored) > 5


def test_tm_score_of_copies_and_mirror_images(crambin: Segment, generator: torch.Generator) -> None:
    alphas = crambin.atoms[:, 1].float()
    mirrored = alphas * torch.tensor([-1.0, 1.0, 1.0])
    scores = tm_scores([alphas] * 2, [moved(alphas, generator), mirrored])
    assert abs(float(scores[0]) - 1) < 1e-3
    assert float(scores[1]) < 0.6


def test_tm_score_formula_against_biotite(crambin: Segment, generator: torch.Generator) -> None:
    """Noise that leaves the alignment residue by residue, nearly: biotite scores the same superposition."""
    first = crambin.atoms[:, 1].float()
    second = first + 0.8 * torch.randn(first.shape, generator=generator)
    fitted, _ = biotite.structure.superimpose(first.numpy(), second.numpy())
    index = np.arange(len(first))
    expected = biotite.structure.tm_score(array(first), array(torch.tensor(fitted)), index, index)
    found = float(tm_scores([first], [second])[0])
    # The search maximises the score, biotite's superposition the RMSD.
    assert expected - 1e-3 <= found <= expected + 0.05


def test_an_inserted_loop_is_a_gap(generator: torch.Generator) -> None:
    chain = grammar_folds(48, 48)[0].chain(0)[:, 1]
    cut = torch.cat((chain[:20], chain[28:]))
    score = float(tm_scores([cut], [moved(chain, generator)])[0])
    assert score > 0.97
    assert abs(float(tm_scores([chain], [cut])[0]) - 40 / 48) < 0.03


def test_alignment_finds_at_least_what_biotite_finds() -> None:
    folds = [grammar_folds(length, length)[0] for length in (40, 44, 48)]
    chains = [part.chain(i) for part in folds for i in range(2)][:4]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    ours = tm_scores([chains[i][:, 1] for i, _ in pairs], [chains[j][:, 1] for _, j in pairs])
    theirs = []
    for i, j in pairs:
        # A superposition of residues in order: a score that any search for the best must reach, nearly.
        shorter, longer = sorted((chains[i][:, 1], chains[j][:, 1]), key=len)
        fitted, _ = biotite.structure.superimpose(shorter.numpy(), longer[: len(shorter)].numpy())
        index = np.arange(len(shorter))
        score = biotite.structure.tm_score(array(shorter), array(torch.tensor(fitted)), index, index)
        theirs.append(score * len(shorter) / len(chains[i]))
    assert (ours - torch.tensor(theirs)).min() > -0.02
    assert ours.mean() > 0.25


def array(places: Tensor) -> biotite.structure.AtomArray:
    made = biotite.structure.AtomArray(len(places))
    made.coord = places.numpy()
    made.atom_name = np.full(len(places), "CA")
    made.res_name = np.full(len(places), "ALA")
    made.res_id = np.arange(1, len(places) + 1)
    return made
