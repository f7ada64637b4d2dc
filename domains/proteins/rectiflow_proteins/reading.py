"""Structure files (PDB, mmCIF) to whole backbones: what cannot be used is named, with file, residue and reason."""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import torch
from torch import Tensor

from rectiflow.errors import DataError

_MMCIF, _PACKED = (".cif", ".mmcif", ".pdbx"), {".gz": gzip.decompress, ".bz2": bz2.decompress}
SUFFIXES = tuple(kind + packed for packed in ("", *_PACKED) for kind in (".pdb", ".ent", *_MMCIF))
PEPTIDE_BONDS = (1.0, 1.8)
NEIGHBOURS = (2.8, 4.1)
NEIGHBOURS_SHARE = 0.99
SHORTEST, LONGEST = 40, 300
_PARSER_ERRORS = (OSError, EOFError, zlib.error, RuntimeError, ValueError, IndexError)

_RESIDUES = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H", "ILE": "I",
    "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T", "TRP": "W", "TYR": "Y", "VAL": "V",
    # Selenomethionine, and the protonation and bonding states that simulation programs name.
    "MSE": "M", "HSD": "H", "HSE": "H", "HSP": "H", "HID": "H", "HIE": "H", "HIP": "H", "CYX": "C", "CYM": "C", "ASH": "D",
    "GLH": "E", "LYN": "K", "ARN": "R", "TYM": "Y",
}  # fmt: skip
_NAMES = (("N",), ("CA",), ("C",), ("O", "OT1", "OC1", "O1"))


@dataclass(frozen=True)
class Segment:
    """A stretch of a chain without a break.

    file, chain, first and last say where; sequence: one-letter; atoms: N, CA, C, O, (N, 4, 3), Angstrom; b_factors: those of
    CA, (N,), in which predicted structures hold their confidence.
    """

    file: str
    chain: str
    first: str
    last: str
    sequence: str
    atoms: Tensor
    b_factors: Tensor

    @property
    def name(self) -> str:
        """File, chain, and first and last residue."""
        return f"{self.file}:{self.chain}:{self.first}-{self.last}"


@dataclass(frozen=True)
class Rejection:
    """What was not used: a file, a residue or a stretch of residues (empty for the whole file), and why."""

    file: str
    residue: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{' ' + self.residue if self.residue else ''}: {self.reason}"


def read_structure(
    path: Path, shortest: int = SHORTEST, longest: int = LONGEST
) -> tuple[list[Segment], list[Rejection]]:
    """Backbone segments of a structure file and what of it was rejected.

    The first model counts, and of alternative places the first. A chain is broken at residues that are not amino acids (the
    20, selenomethionine, protonation states), that lack N, CA, C or O, and where C and the next N are not 1.0 to 1.8 A apart;
    segments have `shortest` to `longest` residues, and 99 % of neighbouring CA are 2.8 to 4.1 A apart. Chain names may have any
    length.

    Raises:
        DataError: the file cannot be read, or holds no atom.
    """
    model = _model(path)
    segments: list[Segment] = []
    rejections: list[Rejection] = []
    for chain in model:
        for run in _unbroken(path.name, chain, rejections):
            _admit(run, shortest, longest, segments, rejections)
    return segments, rejections


def read_folder(
    folder: Path, shortest: int = SHORTEST, longest: int = LONGEST, *, on_error: str = "skip", distinct: bool = True
) -> tuple[list[Segment], list[Rejection]]:
    """Segments of all structure files below a folder, in order of path, and what was rejected; each sequence once if `distinct`.

    Raises:
        DataError: the folder is missing or has no structure files; with `on_error="raise"`, a file cannot be read.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; it must hold structure files ({', '.join(SUFFIXES)}): check the path"
        )
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
    if not paths:
        raise DataError(f"{folder} holds no structure file; files must end in {', '.join(SUFFIXES)}: check the path")
    found: list[Segment] = []
    known: set[str] = set()
    rejections: list[Rejection] = []
    for path in paths:
        try:
            segments, rejected = read_structure(path, shortest, longest)
        except DataError as error:
            if on_error == "raise":
                raise
            rejections.append(Rejection(path.name, "", str(error).removeprefix(f"{path}: ")))
            continue
        rejections += rejected
        for segment in segments:
            if distinct and segment.sequence in known:
                rejections.append(Rejection(segment.file, _span(segment), "sequence was seen before"))
                continue
            known.add(segment.sequence)
            found.append(segment)
    return found, rejections


def summary(segments: Sequence[Segment], rejections: Iterable[Rejection]) -> str:
    """One line: how many segments were kept, and how often each reason to reject occurred."""
    counts = Counter(rejection.reason.split(":")[0] for rejection in rejections)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
    return f"kept {len(segments)} segments" + (f", rejected: {reasons}" if reasons else "")


def cluster(sequences: Sequence[str], overlap: float = 0.3) -> list[int]:
    """A cluster number for each sequence: those whose 4-mers are in a longer representative's to more than `overlap` join it."""
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), sequences[index]))
    representatives: list[set[str]] = []
    numbers = [0] * len(sequences)
    for index in order:
        words = {sequences[index][i : i + 4] for i in range(len(sequences[index]) - 3)}
        shares = [len(words & other) / max(1, len(words)) for other in representatives]
        joined = next((number for number, share in enumerate(shares) if share > overlap), None)
        if joined is None:
            joined = len(representatives)
            representatives.append(words)
        numbers[index] = joined
    return numbers


def _model(path: Path) -> gemmi.Model:
    try:
        # gemmi takes a compressed file that was cut short for a whole one; Python does not.
        packed = path.suffix.lower() if path.suffix.lower() in _PACKED else ""
        content = _PACKED[packed](path.read_bytes()) if packed else path.read_bytes()
        text = content.decode("utf-8", errors="replace")
        if path.name.lower().removesuffix(packed).endswith(_MMCIF):
            structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])
        else:
            structure = gemmi.read_pdb_string(text)
    except _PARSER_ERRORS as error:
        raise DataError(
            f"{path}: cannot be read: {' '.join(str(error).split())[:200]}; it must be a PDB or mmCIF file"
        ) from error
    if not len(structure) or not structure[0].count_atom_sites():
        raise DataError(f"{path}: holds no atom: it must be a PDB or mmCIF file with coordinates")
    return structure[0]


def _unbroken(file: str, chain: gemmi.Chain, rejections: list[Rejection]) -> Iterable[Segment]:
    """Yield stretches of residues that are bonded to each other, of any length."""
    letters: list[str] = []
    places: list[list[tuple[float, float, float]]] = []
    ids: list[str] = []
    b_factors: list[float] = []
    seen, foreign = "", False

    def finished() -> Iterable[Segment]:
        if letters:
            atoms = torch.tensor(places, dtype=torch.float64)
            yield Segment(file, chain.name, ids[0], ids[-1], "".join(letters), atoms, torch.tensor(b_factors))
        for collected in (letters, places, ids, b_factors):
            collected.clear()

    for residue in chain:
        if residue.name not in _RESIDUES:
            if residue.het_flag != "H" and not residue.is_water():
                if not foreign:  # the first speaks for all that follow it
                    rejections.append(Rejection(file, _place(chain, residue), f"not an amino acid: {residue.name}"))
                foreign = True
                yield from finished()
            continue
        foreign = False
        if str(residue.seqid) == seen:  # two residues in one place: the first is taken
            continue
        seen = str(residue.seqid)
        atoms, missing = _backbone(residue)
        if missing:
            rejections.append(Rejection(file, _place(chain, residue), f"backbone atoms are missing: {missing}"))
            yield from finished()
            continue
        if places and not PEPTIDE_BONDS[0] < math.dist(places[-1][2], atoms[0]) < PEPTIDE_BONDS[1]:
            yield from finished()
        letters.append(_RESIDUES[residue.name])
        places.append(atoms)
        ids.append(seen)
        b_factors.append(next(atom.b_iso for atom in residue if atom.name == "CA"))
    yield from finished()


def _backbone(residue: gemmi.Residue) -> tuple[list[tuple[float, float, float]], str]:
    """Places of N, CA, C and O, and the names of those that are missing or not finite."""
    places, missing = [], []
    chosen = next((atom.altloc for atom in residue if atom.altloc != "\0"), "\0")
    for names in _NAMES:
        atoms = [atom for name in names for atom in residue if atom.name == name]
        atoms.sort(key=lambda atom: atom.altloc not in ("\0", chosen))
        if atoms and all(map(math.isfinite, atoms[0].pos.tolist())):
            x, y, z = atoms[0].pos.tolist()
            places.append((x, y, z))
        else:
            missing.append(names[0])
    return places, " ".join(missing)


def _admit(segment: Segment, shortest: int, longest: int, segments: list[Segment], rejections: list[Rejection]) -> None:
    length = len(segment.sequence)
    steps = torch.linalg.vector_norm(segment.atoms[1:, 1] - segment.atoms[:-1, 1], dim=-1)
    regular = ((steps > NEIGHBOURS[0]) & (steps < NEIGHBOURS[1])).double().mean() if length > 1 else torch.ones(())
    if length < shortest:
        reason = f"shorter than {shortest} residues without a break: {length}"
    elif length > longest:
        reason = f"longer than {longest} residues: {length}"
    elif regular < NEIGHBOURS_SHARE:
        reason = f"neighbouring CA are not {NEIGHBOURS[0]} to {NEIGHBOURS[1]} A apart: {1 - float(regular):.1%} of them"
    else:
        segments.append(segment)
        return
    rejections.append(Rejection(segment.file, _span(segment), reason))


def _place(chain: gemmi.Chain, residue: gemmi.Residue) -> str:
    return f"{chain.name} {residue.name} {residue.seqid}"


def _span(segment: Segment) -> str:
    return f"{segment.chain} {segment.first}-{segment.last}"
