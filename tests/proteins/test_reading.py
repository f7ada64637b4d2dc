"""Structure files, good and bad: each rule of reading with a file written for it."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest
import torch

from rectiflow.errors import DataError
from rectiflow_proteins.output import write_structure
from rectiflow_proteins.reading import (
    Rejection,
    Segment,
    cluster,
    read_folder,
    read_structure,
    summary,
)

FOUR = ("N", "CA", "C", "O")


def atom_line(
    serial: int,
    name: str,
    residue: str,
    chain: str,
    number: int,
    place: tuple[float, ...],
    altloc: str = " ",
    icode: str = " ",
) -> str:
    x, y, z = place
    return (
        f"ATOM  {serial % 100000:5d}  {name:<3s}{altloc}{residue:>3s} {chain}{number:4d}{icode}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {name[0]}"
    )


def lines_of(segment: Segment, residue: str = "ALA", chain: str = "A") -> list[list[str]]:
    """One list of four lines a residue."""
    return [
        [atom_line(4 * i + k, name, residue, chain, i + 1, tuple(atoms[k].tolist())) for k, name in enumerate(FOUR)]
        for i, atoms in enumerate(segment.atoms)
    ]


def written(path: Path, lines: list[list[str]]) -> Path:
    path.write_text("\n".join(line for residue in lines for line in residue) + "\nEND\n")
    return path


def test_a_whole_chain_comes_back(crambin: Segment, tmp_path: Path) -> None:
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines_of(crambin)))
    assert rejections == []
    assert [(s.file, s.chain, s.first, s.last, s.sequence) for s in segments] == [("a.pdb", "A", "1", "46", "A" * 46)]
    torch.testing.assert_close(segments[0].atoms, crambin.atoms, atol=6e-4, rtol=0)
    assert segments[0].name == "a.pdb:A:1-46"


def test_a_missing_atom_breaks_the_chain_and_is_named(crambin: Segment, tmp_path: Path) -> None:
    lines = lines_of(crambin)
    del lines[20][2]
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines), shortest=20)
    assert [(s.first, s.last) for s in segments] == [("1", "20"), ("22", "46")]
    assert [str(r) for r in rejections] == ["a.pdb A ALA 21: backbone atoms are missing: C"]


def test_a_gap_breaks_the_chain(crambin: Segment, tmp_path: Path) -> None:
    lines = lines_of(crambin)
    del lines[10]
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines), shortest=20)
    assert [(s.first, s.last) for s in segments] == [("12", "46")]
    assert [(r.residue, r.reason) for r in rejections] == [("A 1-10", "shorter than 20 residues without a break: 10")]


def test_the_first_of_alternative_places_counts(crambin: Segment, tmp_path: Path) -> None:
    lines = lines_of(crambin)
    place = (99.0, 99.0, 99.0)
    lines[5] = [line[:16] + "A" + line[17:] for line in lines[5]]
    lines[5] += [atom_line(900 + k, name, "ALA", "A", 6, place, altloc="B") for k, name in enumerate(FOUR)]
    segments, _ = read_structure(written(tmp_path / "a.pdb", lines))
    torch.testing.assert_close(segments[0].atoms, crambin.atoms, atol=6e-4, rtol=0)


def test_insertion_codes_are_residues_of_their_own(crambin: Segment, tmp_path: Path) -> None:
    lines = lines_of(crambin)
    # Numbers 1 ... 30, 30A, 30B, 31 ...
    for i, residue in enumerate(lines):
        number, icode = (i + 1, " ") if i < 30 else (30, "AB"[i - 30]) if i < 32 else (i - 1, " ")
        lines[i] = [line[:22] + f"{number:4d}{icode}" + line[27:] for line in residue]
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines))
    assert rejections == []
    assert (len(segments[0].sequence), segments[0].last) == (46, "44")


def test_the_first_model_of_an_ensemble(crambin: Segment, tmp_path: Path) -> None:
    moved = crambin.atoms + 7
    path = write_structure(tmp_path / "nmr.pdb", [crambin.atoms, moved])
    segments, _ = read_structure(path)
    assert len(segments) == 1
    torch.testing.assert_close(segments[0].atoms, crambin.atoms, atol=6e-4, rtol=0)


def test_names_of_simulation_programs_and_terminal_oxygens(crambin: Segment, tmp_path: Path) -> None:
    lines = lines_of(crambin)
    for i, name in ((3, "MSE"), (4, "HSD"), (5, "CYX")):
        lines[i] = [line[:17] + name + line[20:] for line in lines[i]]
    lines[45] = [line.replace(" O  ", " OT1") for line in lines[45]]
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines))
    assert rejections == []
    assert segments[0].sequence[3:6] == "MHC"


def test_foreign_residues_break_the_chain_once(crambin: Segment, tmp_path: Path) -> None:
    lines = lines_of(crambin)
    for i in (20, 21):
        lines[i] = [line[:17] + "XYZ" + line[20:] for line in lines[i]]
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines), shortest=20)
    assert [(s.first, s.last) for s in segments] == [("1", "20"), ("23", "46")]
    assert [str(r) for r in rejections] == ["a.pdb A XYZ 21: not an amino acid: XYZ"]


def test_chain_names_of_several_letters(crambin: Segment, tmp_path: Path) -> None:
    path = write_structure(tmp_path / "long.cif", [crambin.atoms])
    path.write_text(path.read_text().replace(" A ", " Heavy1 "))
    segments, rejections = read_structure(path)
    assert rejections == []
    assert (segments[0].chain, len(segments[0].sequence)) == ("Heavy1", 46)


def test_stretched_chains_are_rejected(crambin: Segment, tmp_path: Path) -> None:
    # All atoms are moved apart along x by a little; the bond C-N stays in its wide range, the CA do not.
    stretched = Segment("a.pdb", "A", "1", "46", crambin.sequence, crambin.atoms * 1.3, crambin.b_factors)
    segments, rejections = read_structure(written(tmp_path / "a.pdb", lines_of(stretched)))
    assert segments == []
    assert "neighbouring CA are not 2.8 to 4.1 A apart" in rejections[0].reason
    assert rejections[0].residue == "A 1-46"


def test_compressed_files(crambin: Segment, tmp_path: Path) -> None:
    plain = written(tmp_path / "a.pdb", lines_of(crambin))
    for ending, compress in (("gz", gzip.compress), ("bz2", bz2.compress)):
        packed = tmp_path / f"b.pdb.{ending}"
        packed.write_bytes(compress(plain.read_bytes()))
        torch.testing.assert_close(read_structure(packed)[0][0].atoms, read_structure(plain)[0][0].atoms)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.pdb", b"", "holds no atom"),
        ("empty.cif", b"", "holds no atom|cannot be read"),
        ("junk.pdb", b"\x00\x01\xff" * 400, "holds no atom|cannot be read"),
        ("junk.cif", b"\x00\x01\xff" * 400, "cannot be read"),
        ("prose.cif", b"this is not a structure", "cannot be read"),
        ("loop.cif", b"data_x\nloop_\n_atom_site.id\n_atom_site.type\n1 2 3\n", "cannot be read"),
        ("junk.pdb.bz2", b"junk" * 40, "cannot be read"),
        ("cut.pdb.bz2", bz2.compress(b"ATOM " * 999)[:40], "cannot be read"),
        ("cut.pdb.gz", gzip.compress(b"ATOM " * 999, mtime=0)[:40], "cannot be read"),
    ],
)
def test_files_that_are_no_structures(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_structure(path)
    assert name in str(caught.value)


def test_a_folder_reports_counts(crambin: Segment, bpti: Segment, tmp_path: Path) -> None:
    written(tmp_path / "a.pdb", lines_of(crambin))
    (tmp_path / "deeper").mkdir()
    write_structure(tmp_path / "deeper" / "b.cif", [bpti.atoms], bpti.sequence)
    write_structure(tmp_path / "deeper" / "again.cif", [bpti.atoms], bpti.sequence)
    (tmp_path / "empty.pdb").write_text("")
    (tmp_path / "notes.txt").write_text("not read")
    segments, rejections = read_folder(tmp_path)
    assert sorted(s.file for s in segments) == ["a.pdb", "again.cif"]
    assert summary(segments, rejections) == "kept 2 segments, rejected: 1 x sequence was seen before; 1 x holds no atom"
    with pytest.raises(DataError, match=r"empty\.pdb"):
        read_folder(tmp_path, on_error="raise")
    with pytest.raises(DataError, match="not a folder"):
        read_folder(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no structure file"):
        read_folder(tmp_path / "bare")


def test_rejections_read_as_one_line() -> None:
    assert str(Rejection("a.pdb", "A ALA 3", "why")) == "a.pdb A ALA 3: why"
    assert str(Rejection("a.pdb", "", "why")) == "a.pdb: why"


def test_clusters_share_words() -> None:
    one = "MKTAYIAKQRQISFVKSHFSRQ"
    assert cluster([one, one[2:18], "GGGGSWWWWPLLLLENNNN"]) == [0, 0, 1]
    assert cluster(["ACDEFGHIKL", "MNPQRSTVWY"]) in ([0, 1], [1, 0])
