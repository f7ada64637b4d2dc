"""Synthetic folds: their geometry by independent measures, their grammar, and that seeds decide everything."""

from __future__ import annotations

import math

import biotite.structure
import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_proteins import grammar
from rectiflow_proteins.data import EMBEDDED, grammar_folds, spread_lengths
from rectiflow_proteins.grammar import BLOCK, Fold, generate_folds
from rectiflow_proteins.output import write_structure
from rectiflow_proteins.secondary import secondary_structure
from rectiflow_proteins.topologies import KINDS, MEANDERS, Meander, draw_topology


@pytest.fixture(scope="module")
def folds() -> list[Fold]:
    return generate_folds([24, 30, 36, 40, 28, 33], torch.Generator().manual_seed(0))


def heavy_gaps(atoms: Tensor) -> Tensor:
    """Distances between atoms of residues three or more apart."""
    residue = torch.arange(len(atoms)).repeat_interleave(4)
    points = atoms.reshape(-1, 3)
    apart = (residue[:, None] - residue).abs() >= 3
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")[apart]


def test_folds_have_ideal_chemistry_and_no_clash(folds: list[Fold]) -> None:
    for fold in folds:
        atoms = fold.atoms
        assert atoms.shape == (len(fold.letters), 4, 3)
        assert atoms[:, 1].mean(0).abs().max() < 1e-4
        assert (torch.linalg.vector_norm(atoms[1:, 1] - atoms[:-1, 1], dim=-1) - 3.80).abs().max() < 0.05
        assert heavy_gaps(atoms).min() > 2.55
        radius = atoms[:, 1].square().sum(-1).mean().sqrt()
        assert radius < 1.36 * 2.2 * len(atoms) ** 0.38


def test_strands_are_bonded_by_hydrogen_bonds(folds: list[Fold], tmp_path: object) -> None:
    """Baker and Hubbard's criterion as an energy (Kabsch and Sander 1983), below -0.5 kcal/mol, for every bonded pair."""
    checked = 0
    for fold in folds:
        # A turn of two joins the last residue before it and the first after it, which bond both ways.
        for turn in [i for i in range(1, len(fold.letters)) if fold.letters[i - 1 : i + 2] == "ETT"]:
            i, j = turn - 1, turn + 2
            for donor, acceptor in ((i, j), (j, i)):
                if donor:
                    assert hydrogen_bond_energy(fold.atoms, donor, acceptor) < -0.5
                    checked += 1
    assert checked >= 4


def hydrogen_bond_energy(atoms: Tensor, donor: int, acceptor: int) -> float:
    """Kabsch and Sander's electrostatic energy, kcal/mol, of N-H of one residue and C=O of another."""
    nitrogen, carbon, oxygen = atoms[donor, 0], atoms[acceptor, 2], atoms[acceptor, 3]
    before = atoms[donor - 1, 2] - atoms[donor - 1, 3]
    hydrogen = nitrogen + before / before.norm()
    inverse = {
        "ON": 1 / (oxygen - nitrogen).norm(),
        "CH": 1 / (carbon - hydrogen).norm(),
        "OH": 1 / (oxygen - hydrogen).norm(),
        "CN": 1 / (carbon - nitrogen).norm(),
    }
    return float(27.9 * (inverse["ON"] + inverse["CH"] - inverse["OH"] - inverse["CN"]))


def test_kinds_have_what_they_say(folds: list[Fold]) -> None:
    for fold in folds:
        states = secondary_structure([fold.atoms[:, 1]])[0]
        assert fold.kind == KINDS[folds.index(fold) % 3]
        assert (float((states == 1).double().mean()) > 0.3) == (fold.kind != "meander") or fold.kind == "mixed"
        if fold.kind != "helical":
            assert "E" in fold.letters
        if fold.kind == "helical":
            assert "E" not in fold.letters
            helix = torch.tensor([letter == "H" for letter in fold.letters])
            # P-SEA leaves out the ends.
            assert float((states[helix] == 1).double().mean()) > 0.75


def test_helices_are_right_handed(folds: list[Fold]) -> None:
    for fold in folds:
        alphas = fold.atoms[:, 1].numpy()
        for i in range(len(alphas) - 3):
            if fold.letters[i : i + 4] == "HHHH":
                assert 20 < math.degrees(biotite.structure.dihedral(*alphas[i : i + 4])) < 85


def test_the_generator_decides_everything_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short descent and every draw accepted: what is random is the same."""
    monkeypatch.setattr(grammar, "BLOCK", 2)
    monkeypatch.setattr(grammar, "DESCENT", 2)
    monkeypatch.setattr(grammar, "LEAST_BATCH", 2)
    monkeypatch.setattr(grammar, "_acceptable", lambda atoms, mask, bonds: torch.ones(len(atoms), dtype=torch.bool))

    def drawn(count: int, seed: int) -> list[Tensor]:
        lengths = [24, 27, 25, 26][:count]
        return [fold.atoms for fold in generate_folds(lengths, torch.Generator().manual_seed(seed))]

    first, again, more, other = drawn(3, 3), drawn(3, 3), drawn(4, 3), drawn(3, 4)
    assert all(torch.equal(one, same) for one, same in zip(first, again, strict=True))
    # The first block does not see what is asked for after it.
    assert all(torch.equal(one, same) for one, same in zip(first[:2], more[:2], strict=True))
    assert not any(torch.equal(one, changed) for one, changed in zip(first, other, strict=True))


def test_antiparallel_strands_face_residues_of_constant_sum() -> None:
    """Two residues of a turn lie between: strands 3 to 7 and 10 to 14, then 0 to 5, 8 to 13 and 16 to 21, by hand."""
    assert Meander(2, 5, start=3).pairs() == ([(7, 10), (5, 12), (3, 14)], [(6, 11), (4, 13)])
    bonded, facing = Meander(3, 6).pairs()
    assert set(bonded) == {(5, 8), (3, 10), (1, 12), (13, 16), (11, 18), (9, 20)}
    assert set(facing) == {(4, 9), (2, 11), (0, 13), (12, 17), (10, 19), (8, 21)}


@pytest.mark.slow
def test_the_embedded_folds_are_made_by_the_seed_that_the_readme_names() -> None:
    """The first block of them, to the 1/20 degree that is stored; machines may round a descent elsewhere now and then."""
    lengths = spread_lengths(24, 48, 3600)[:BLOCK]
    folds = generate_folds(lengths, torch.Generator().manual_seed(2026))
    stored = [chain for part in grammar_folds(24, 48) for chain in map(part.chain, range(len(part)))]
    found = 0
    for fold in folds:
        gaps = [(chain - fold.atoms).abs().max() for chain in stored if len(chain) == len(fold.atoms)]
        found += int(min(gaps) < 0.05)
    assert found >= 0.9 * BLOCK


def test_topologies_fill_their_length(generator: torch.Generator) -> None:
    for length in (24, 31, 48, 64, 128):
        for kind in KINDS:
            for _ in range(10):
                topology = draw_topology(length, kind, generator)
                assert len(topology.letters) == length
                for meander in topology.meanders:
                    piece = topology.letters[meander.start : meander.start + len(meander.letters)]
                    assert piece == meander.letters
                    bonded, facing = meander.pairs()
                    assert all(topology.letters[i] == topology.letters[j] == "E" for i, j in bonded + facing)
                    # Bonded and unbonded pairs alternate along each pair of strands.
                    assert not set(bonded) & set(facing)
    assert all(meander.size % 2 == 0 for meander in MEANDERS if meander.count > 2)


def test_what_the_grammar_does_not_have(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="24 to 128"):
        draw_topology(20, "mixed", generator)
    with pytest.raises(ConfigError, match="helical, meander, mixed"):
        draw_topology(40, "barrel", generator)


def test_the_embedded_folds_are_what_the_grammar_promises(tmp_path: object) -> None:
    assert EMBEDDED.stat().st_size < 1_000_000
    train, validation = grammar_folds(24, 48)
    assert len(train) + len(validation) == 3600
    assert 0.1 < len(validation) / 3600 < 0.25
    for index in range(0, len(validation), 40):
        atoms = validation.chain(index)
        assert heavy_gaps(atoms).min() > 2.5
        assert (torch.linalg.vector_norm(atoms[1:, 0] - atoms[:-1, 2], dim=-1) - 1.329).abs().max() < 1e-4
    share = [float((train.structure == state).double().mean()) for state in (1, 2)]
    assert 0.3 < share[0] < 0.45
    assert 0.25 < share[1] < 0.4
    assert set(train.names) == {f"synthetic-{kind}" for kind in KINDS}


def test_biotite_reads_what_was_generated(folds: list[Fold], tmp_path_factory: pytest.TempPathFactory) -> None:
    from biotite.structure.io.pdb import PDBFile

    path = write_structure(tmp_path_factory.mktemp("out") / "fold.pdb", [folds[2].atoms])
    array = PDBFile.read(path).get_structure(model=1)
    assert (array.atom_name == "O").sum() == len(folds[2].letters)
