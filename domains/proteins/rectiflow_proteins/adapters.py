"""Programs with trained weights, behind two protocols: a sequence for a backbone, and a structure for a sequence."""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow_proteins.alignment import mean_distance, rmsd, tm_scores
from rectiflow_proteins.reading import read_structure

DESIGNERS, FOLDERS = "rectiflow.sequence_designers", "rectiflow.structure_folders"
_HOURS_ALLOWED = 24


@dataclass(frozen=True)
class Folded:
    """A predicted structure: N, CA, C, O, (N, 4, 3) in Angstrom, and its confidence (N,), usually pLDDT in [0, 100]."""

    atoms: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Consistency:
    """How far the structure of a designed sequence is from the backbone that it was designed for, after superposition of CA.

    rmsd: the root of the mean squared distance, Angstrom. mean_distance: the mean distance, which some published code calls
    RMSD and which is never larger. tm: TM-score. confidence: mean confidence. NaN where nothing was folded.
    """

    sequence: str
    rmsd: float = math.nan
    mean_distance: float = math.nan
    tm: float = math.nan
    confidence: float = math.nan


class SequenceDesigner(Protocol):
    """Gives sequences to a backbone."""

    def design(self, atoms: Tensor, count: int, temperature: float, generator: torch.Generator) -> list[str]:
        """`count` one-letter sequences for N, CA, C, O, (N, 4, 3) in Angstrom."""


class Folder(Protocol):
    """Gives a structure to each sequence."""

    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        """One structure a sequence, in their order."""


def installed_adapter(group: str, name: str, *, builtin: Sequence[str] = ()) -> Any:
    """What the entry point `name` of a group makes: it is called without arguments.

    The groups are "rectiflow.sequence_designers" and "rectiflow.structure_folders"; any installed package may add to them.
    `builtin` are names that need no entry point, for the message.

    Raises:
        ConfigError: no entry point of that name, or it makes something without the method that the group is for.
        MissingDependency: its package does not import.
    """
    points = {point.name: point for point in entry_points(group=group)}
    kind, method = ("designer", "design") if group == DESIGNERS else ("folder", "fold")
    if name not in points:
        known = ", ".join([*builtin, *sorted(points)]) or "none"
        raise ConfigError(
            f"{kind}={name} is unknown; installed: {known}; packages add more by entry points of the group {group}"
        )
    try:
        made = points[name].load()()
    except (ImportError, AttributeError) as error:
        raise MissingDependency(
            f"{kind}={name} ({points[name].value}) does not load: {error}; install it again"
        ) from error
    if not callable(getattr(made, method, None)):
        raise ConfigError(
            f"{kind}={name} ({points[name].value}) makes a {type(made).__name__} without {method}(); it must have one"
        )
    return made


class NullFolder:
    """No folding program: says what to do about it."""

    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        """Raise.

        Raises:
            MissingDependency: always.
        """
        raise MissingDependency(
            f"{len(sequences)} sequences were to be folded, but no folding program is set: name one with command="
        )


@dataclass(frozen=True)
class CommandFolder:
    """A program that reads a FASTA file and writes one PDB or mmCIF file a sequence into a folder.

    Args:
        command: the program and its arguments; `{fasta}` and `{out}` stand for the file and the folder. No shell is used.
    """

    command: tuple[str, ...]

    def __post_init__(self) -> None:
        joined = " ".join(self.command)
        if "{fasta}" not in joined or "{out}" not in joined:
            raise ConfigError(f"folding command {joined!r} must name {{fasta}} and {{out}}: add what is missing")

    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        """Structures of the sequences; the file for a sequence begins with its name, `design_0`, `design_1`, …

        Raises:
            MissingDependency: there is no such program.
            DataError: it fails, or a structure is missing, broken or of another length.
        """
        with tempfile.TemporaryDirectory(prefix="rectiflow-fold-") as work:
            fasta, out = Path(work) / "designs.fasta", Path(work) / "out"
            out.mkdir()
            fasta.write_text("".join(f">design_{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
            command = [part.replace("{fasta}", str(fasta)).replace("{out}", str(out)) for part in self.command]
            self._run(command)
            return [_folded(out, i, sequence) for i, sequence in enumerate(sequences)]

    def _run(self, command: list[str]) -> None:
        try:
            finished = subprocess.run(  # noqa: S603 - the user's own program, no shell
                command, capture_output=True, text=True, errors="replace", timeout=_HOURS_ALLOWED * 3600, check=False
            )
        except FileNotFoundError as error:
            raise MissingDependency(
                f"folding program {command[0]!r} is not found: install it or give its path"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{command[0]} took longer than {_HOURS_ALLOWED} hours; fold fewer sequences") from error
        if finished.returncode:
            last = (finished.stderr.strip() or finished.stdout.strip() or "no message").splitlines()[-1][:200]
            raise DataError(
                f"{command[0]} ended with code {finished.returncode}: {last}; run it by hand on one sequence"
            )


def self_consistency(
    atoms: Tensor,
    designer: SequenceDesigner,
    folder: Folder | None,
    *,
    count: int = 8,
    temperature: float = 0.1,
    generator: torch.Generator,
) -> list[Consistency]:
    """One row a designed sequence of a backbone N, CA, C, O, (N, 4, 3); without a folder every figure is NaN.

    A backbone is called designable when the least RMSD is under 2 A (Watson et al. 2023).

    Raises:
        DataError: a structure has another number of residues than the backbone.
    """
    sequences = designer.design(atoms, count, temperature, generator)
    if folder is None:
        return [Consistency(sequence) for sequence in sequences]
    rows = []
    target = atoms[:, 1].float()
    for sequence, folded in zip(sequences, folder.fold(sequences), strict=True):
        alphas = folded.atoms[:, 1].to(target)
        if alphas.shape != target.shape:
            raise DataError(
                f"the folding program gave {len(alphas)} residues for a backbone of {len(target)}; they must be equal: check it"
            )
        rows.append(
            Consistency(
                sequence,
                rmsd=float(rmsd(alphas, target)),
                mean_distance=float(mean_distance(alphas, target)),
                tm=float(tm_scores([target], [alphas])[0]),
                confidence=float(folded.confidence.float().mean()),
            )
        )
    return rows


def _folded(out: Path, index: int, sequence: str) -> Folded:
    names = (f"design_{index}.", f"design_{index}_")
    found = sorted(path for path in out.rglob("*") if path.name.startswith(names) and path.suffix in (".pdb", ".cif"))
    if not found:
        raise DataError(
            f"the folding program wrote no structure for design_{index} into {{out}}; it must write design_{index}.pdb"
        )
    segments, rejections = read_structure(found[0], shortest=1, longest=len(sequence))
    if len(segments) != 1 or segments[0].sequence != sequence:
        why = f" ({rejections[0]})" if rejections else ""
        raise DataError(f"{found[0].name} does not hold the whole of design_{index}{why}; look at the program's output")
    return Folded(segments[0].atoms, segments[0].b_factors)
