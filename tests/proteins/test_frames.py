"""Frames and atoms: against hand-made coordinates, real chains and scipy's rotations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow_proteins.frames import atoms_from_frames, beta_carbons, frames_from_atoms, with_oxygens
from rectiflow_proteins.torsions import angle, atoms_from_torsions, dihedral, torsions_of


@pytest.fixture(params=["crambin", "bpti"])
def real(request: pytest.FixtureRequest) -> Tensor:
    atoms: Tensor = request.getfixturevalue(request.param).atoms
    return atoms


def test_the_axes_of_a_frame_are_those_of_its_atoms() -> None:
    atoms = torch.tensor([[[0.0, 1.4, 0.2], [0.0, 0.0, 0.2], [-1.5, 0.0, 0.2]]], dtype=torch.float64)
    rotations, translations = frames_from_atoms(atoms)
    w, x, y, z = rotations[0].tolist()
    matrix = torch.tensor(Rotation.from_quat([x, y, z, w]).as_matrix())
    # C lies along -x, N along +y, so the third axis is -x cross y = -z.
    expected = torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1]], dtype=torch.float64)
    torch.testing.assert_close(matrix, expected, atol=1e-12, rtol=0)
    assert translations.tolist() == [[0.0, 0.0, 0.2]]


def test_ideal_atoms_keep_bonds_and_angle(generator: torch.Generator) -> None:
    rotations = torch.nn.functional.normalize(torch.randn(50, 4, dtype=torch.float64, generator=generator), dim=-1)
    translations = 10 * torch.randn(50, 3, dtype=torch.float64, generator=generator)
    nitrogen, alpha, carbon = atoms_from_frames(rotations, translations).unbind(1)
    beta = beta_carbons(rotations, translations)
    for one, other, length in ((nitrogen, alpha, 1.4606), (alpha, carbon, 1.526), (alpha, beta, 1.527)):
        assert torch.linalg.vector_norm(one - other, dim=-1).sub(length).abs().max() < 1e-3
    assert torch.rad2deg(angle(nitrogen, alpha, carbon)).sub(111.07).abs().max() < 0.01
    # L-amino acids: seen from the hydrogen, opposite to the sum of the other bonds, CO, R and N follow clockwise.
    chirality = (torch.linalg.cross(nitrogen - alpha, carbon - alpha) * (beta - alpha)).sum(-1)
    assert (chirality > 0).all()


def test_round_trip_of_frames(generator: torch.Generator) -> None:
    rotations = torch.nn.functional.normalize(torch.randn(5, 20, 4, dtype=torch.float64, generator=generator), dim=-1)
    translations = 10 * torch.randn(5, 20, 3, dtype=torch.float64, generator=generator)
    again, places = frames_from_atoms(atoms_from_frames(rotations, translations))
    torch.testing.assert_close(places, translations)
    assert (again * rotations).sum(-1).abs().sub(1).abs().max() < 1e-12
    assert (again[..., 0] >= 0).all()


def test_round_trip_of_real_chains(real: Tensor) -> None:
    rotations, translations = frames_from_atoms(real)
    atoms = atoms_from_frames(rotations, translations)
    gap = torch.linalg.vector_norm(atoms - real[:, :3], dim=-1)
    assert gap[:, 1].max() < 1e-5
    assert gap[:, 2].max() < 0.05
    assert gap[:, 0].mean() < 0.12
    oxygen = torch.linalg.vector_norm(with_oxygens(real[:, :3])[:-1, 3] - real[:-1, 3], dim=-1)
    assert oxygen.mean() < 0.12


def test_padding_has_identity_frames_and_finite_atoms(real: Tensor) -> None:
    padded = torch.cat((real, torch.zeros(7, 4, 3, dtype=torch.float64)))
    mask = torch.arange(len(padded)) < len(real)
    rotations, translations = frames_from_atoms(padded, mask)
    assert rotations[len(real) :].tolist() == [[1.0, 0, 0, 0]] * 7
    assert not translations[len(real) :].any()
    atoms = with_oxygens(atoms_from_frames(rotations, translations), mask)
    alone = with_oxygens(atoms_from_frames(*frames_from_atoms(real)))
    torch.testing.assert_close(atoms[: len(real)], alone)
    assert atoms.isfinite().all()


def test_a_mirror_image_changes_the_sign_of_every_torsion(real: Tensor) -> None:
    mirrored = real * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    torsions = torsions_of(real)
    inner = torsions.isfinite()
    torch.testing.assert_close(torsions_of(mirrored)[inner], -torsions[inner])
    # Frames cannot follow a reflection: the atoms that they put back are not the mirrored beta carbons.
    here, there = (beta_carbons(*frames_from_atoms(atoms)) for atoms in (real, mirrored))
    apart = torch.linalg.vector_norm(there - here * torch.tensor([-1.0, 1, 1], dtype=torch.float64), dim=-1)
    assert apart.min() > 2


def test_dihedral_of_a_right_handed_turn() -> None:
    # Looking from b to c, the far bond is turned clockwise by 60 degrees: positive by IUPAC's convention.
    a, b, c = (torch.tensor(p, dtype=torch.float64) for p in ((0.0, 1, 0), (0.0, 0, 0), (1.0, 0, 0)))
    d = torch.tensor([1.0, math.cos(math.pi / 3), math.sin(math.pi / 3)], dtype=torch.float64)
    assert math.isclose(float(dihedral(a, b, c, d)), math.pi / 3)


def test_torsions_round_trip(generator: torch.Generator) -> None:
    torsions = (2 * torch.rand(6, 40, 3, dtype=torch.float64, generator=generator) - 1) * math.pi
    again = torsions_of(atoms_from_torsions(torsions))
    for column, rows in ((0, slice(1, None)), (1, slice(None, -1)), (2, slice(None, -1))):
        error = again[:, rows, column] - torsions[:, rows, column]
        assert torch.atan2(error.sin(), error.cos()).abs().max() < 1e-10
    assert again[:, 0, 0].isnan().all()
    assert again[:, -1, 1:].isnan().all()


def test_trans_peptides_are_3_8_apart_and_ideal_helices_rise_1_5() -> None:
    helix = torch.deg2rad(torch.tensor([-57.8, -47.0, 180.0], dtype=torch.float64)).expand(30, 3)
    atoms = atoms_from_torsions(helix)
    assert torch.linalg.vector_norm(atoms[1:, 1] - atoms[:-1, 1], dim=-1).sub(3.80).abs().max() < 0.02
    assert torch.linalg.vector_norm(atoms[1:, 0] - atoms[:-1, 2], dim=-1).sub(1.329).abs().max() < 1e-9
    # Pauling's helix: 3.6 residues a turn with a rise of 5.4 A, right-handed.
    assert abs(float(torch.linalg.vector_norm(atoms[18, 1] - atoms[0, 1])) - 27.0) < 1.0
    assert float(dihedral(*atoms[5:9, 1])) == pytest.approx(math.radians(50), abs=0.1)
