"""Backbones as files that other programs open: PDB and mmCIF, one model a state, with N, CA, C and O of every residue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np
from torch import Tensor

from rectiflow.errors import ConfigError, DataError

_ATOMS = ("N", "CA", "C", "O")
_ELEMENTS = ("N", "C", "C", "O")
_PDB_LIMITS = (-999.0, 9999.0)


def write_structure(path: Path, models: Sequence[Tensor], sequence: str = "", title: str = "") -> Path:
    """Write atoms N, CA, C, O, (N, 4, 3) in Angstrom, as PDB or mmCIF by the name's ending, and return the path.

    Several models are a trajectory. Residues are glycines (backbones without CB) unless a one-letter `sequence` names them.

    Raises:
        ConfigError: another ending, no model, models of different shapes, or a sequence of another length.
        DataError: a coordinate that is not finite, or that PDB's eight columns cannot hold.
    """
    if path.suffix not in (".pdb", ".cif"):
        raise ConfigError(
            f"{path.name} ends in {path.suffix!r}; structures are written as .pdb or .cif: change the ending"
        )
    shapes = {tuple(model.shape) for model in models}
    length = len(models[0]) if models else 0
    if len(shapes) != 1 or models[0].shape[1:] != (4, 3) or (sequence and len(sequence) != length):
        raise ConfigError(
            f"models of shapes {sorted(shapes)} and a sequence of {len(sequence)} were given; all must be (N, 4, 3), the "
            "sequence of N letters or empty"
        )
    places = [np.asarray(model.detach().cpu().double()) for model in models]
    for model in places:
        if not np.isfinite(model).all() or not (_PDB_LIMITS[0] < model.min() and model.max() < _PDB_LIMITS[1]):
            raise DataError(
                f"{path.name}: coordinates run from {model.min():.6g} to {model.max():.6g}; they must be finite and between "
                f"{_PDB_LIMITS[0]:g} and {_PDB_LIMITS[1]:g} A: centre the chain first"
            )
    structure = _structure(places, sequence, title or path.stem)
    if path.suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        groups = gemmi.MmcifOutputGroups(True)
        groups.auth_all = True  # some readers look for the author's names of residues and atoms
        structure.make_mmcif_document(groups).write_file(str(path))
    return path


def _structure(models: Sequence[np.ndarray], sequence: str, title: str) -> gemmi.Structure:
    structure = gemmi.Structure()
    structure.name = title
    names = gemmi.expand_one_letter_sequence(sequence, gemmi.ResidueKind.AA) if sequence else ["GLY"] * len(models[0])
    for number, places in enumerate(models, start=1):
        model = gemmi.Model(number)
        chain = gemmi.Chain("A")
        for index, (name, atoms) in enumerate(zip(names, places, strict=True), start=1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = name, gemmi.SeqId(str(index))
            for atom_name, element, place in zip(_ATOMS, _ELEMENTS, atoms, strict=True):
                atom = gemmi.Atom()
                atom.name, atom.element = atom_name, gemmi.Element(element)
                atom.pos = gemmi.Position(*place)
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
    structure.setup_entities()
    structure.assign_serial_numbers()
    return structure
