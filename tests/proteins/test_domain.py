"""Proteins through the command line: train, sample, rectify, scaffold, and clear lines for what is not allowed."""

from __future__ import annotations

import json
from pathlib import Path

import gemmi
import pytest
import torch

from rectiflow.cli import main
from rectiflow.config import compose_training
from rectiflow.domain import build, load_spec
from rectiflow.errors import ConfigError
from rectiflow.runs import read_config
from rectiflow_proteins.domain import Proteins, backbones

SPEC = load_spec("proteins")
SMALL = [
    "data.shortest=24",
    "data.longest=25",
    "model.width=16",
    "model.blocks=1",
    "model.pair_width=8",
    "model.bins=4",
]
SMALL += ["training.steps=2", "training.batch=2", "training.warmup=1", "training.tensorboard=false", "sampling.steps=1"]
SMALL += ["reflow.pairs=4", "reflow.steps=1", "reflow.training.steps=1", "reflow.training.batch=2"]


def domain(*overrides: str) -> Proteins:
    built = build(SPEC, compose_training(SPEC, list(overrides)))
    assert isinstance(built, Proteins)
    return built


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that was told of motifs."""
    place = tmp_path_factory.mktemp("runs")
    assert main(["train", "proteins", *SMALL, "model.told=[content,labels,motif]", f"out={place}"]) == 0
    return place / "proteins" / "base"


def test_samples_are_backbones_of_the_length_asked_for(run: Path, tmp_path: Path) -> None:
    arguments = [f"run={run}", "count=3", "steps=2", "cond.length=[20,30]", "cond.helix=0.6", f"out={tmp_path}"]
    assert main(["sample", "proteins", *arguments]) == 0
    files = sorted(tmp_path.glob("*.pdb"))
    assert [path.name for path in files] == ["00000-20.pdb", "00001-30.pdb", "00002-20.pdb"]
    residues = gemmi.read_structure(str(files[1]))[0][0]
    assert len(residues) == 30
    assert [atom.name for atom in residues[0]] == ["N", "CA", "C", "O"]
    assert (tmp_path / "all.png").is_file()


def test_labels_set_the_length(run: Path, tmp_path: Path) -> None:
    assert (
        main(["sample", "proteins", f"run={run}", "count=1", "steps=1", "cond.labels=CCHHHHHHEEEEC", f"out={tmp_path}"])
        == 0
    )
    assert [path.name for path in tmp_path.glob("*.pdb")] == ["00000-13.pdb"]


def test_a_run_can_be_rectified(run: Path) -> None:
    assert main(["reflow", "proteins", f"run={run}", "name=student", f"out={run.parent.parent}"]) == 0
    student = run.parent / "student"
    assert read_config(student).weight == "velocity"
    assert (student / "pairs" / "index.json").is_file()


def test_a_motif_is_scaffolded(run: Path, tmp_path: Path) -> None:
    source = Path(__file__).parent / "data" / "crambin-1ejg.pdb"
    arguments = [f"run={run}", f"motif={source}", "residues=7-18", "start=5", "length=24", "count=2", "steps=2"]
    assert main(["scaffold", "proteins", *arguments, f"out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found) == {"motif_rmsd", "motif_held", "ca_valid", "peptide_valid", "clash_free"}
    assert len(list(tmp_path.glob("*.pdb"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "proteins", "cond.length=2"], "cond.length=2"),
        (["scaffold", "proteins", "motif=x.pdb", "strength=2"], "strength=2"),
        (["scaffold", "proteins"], "motif is not given"),
        (["train", "proteins", "predicts=velocity"], "predicts=velocity"),
        (["train", "proteins", "model.told=[sequence]"], "model.told"),
    ],
)
def test_mistakes_get_one_line(
    run: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"run={run}"] if arguments[0] != "train" else [f"out={tmp_path}"]
    assert main([*arguments, *where]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("verb", "key"), [("scaffold", "residues"), ("designability", "temperature")])
def test_verbs_of_proteins_print_their_settings(verb: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "proteins", "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"rectiflow {verb} proteins" in printed
    assert f"{key}=" in printed or f"{key}:" in printed


def test_conditions_are_padded_to_the_longest_chain_and_pairs_fit() -> None:
    proteins = domain("data.shortest=24", "data.longest=30")
    cond = proteins.conditions(5, torch.Generator().manual_seed(0))
    assert proteins.sample_shape(5, cond) == {"translations": (5, 30, 3), "rotations": (5, 30, 4)}
    assert proteins.sample_shape(1, {}) == {"translations": (1, 30, 3), "rotations": (1, 30, 4)}
    assert torch.equal(proteins.mask(cond), cond["mask"])  # type: ignore[arg-type]


def test_figures_of_the_data_itself_are_those_of_the_data() -> None:
    proteins = domain("data.shortest=24", "data.longest=24")
    batch = proteins.dataset("train").__getitems__(list(range(16)))
    found = proteins.evaluate(batch.x1, batch.cond)
    assert {metric.name for metric in proteins.metrics} <= set(found)
    assert found["ca_valid"] == 1
    assert found["peptide_valid"] == 1
    assert found["clash_free"] == 1
    assert found["novelty"] > 0.99
    chain = backbones(batch.x1, batch.cond)[0]
    assert chain.shape == (24, 4, 3)


def test_quality_puts_sound_backbones_first() -> None:
    proteins = domain("data.shortest=24", "data.longest=24")
    batch = proteins.dataset("train").__getitems__([0, 1, 2])
    x1 = batch.x1
    assert isinstance(x1, dict)
    broken = {name: part.clone() for name, part in x1.items()}
    broken["translations"][1, 12:] += 3
    broken["translations"][2] *= 0.2
    scores = proteins.quality(broken, batch.cond)
    assert scores[0] == 3
    assert 2.8 < scores[1] < 3
    assert scores[2] < 1


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="test"):
        domain("data.longest=24").dataset("test")
