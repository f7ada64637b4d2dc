"""Synthetic backbones: a random topology, torsions from it, and gradient descent on hydrogen bonds, clashes and size.

They have ideal bonds, helices, hydrogen-bonded hairpins and meanders, and no clashes; they are not natural folds, and everything
made from them says "synthetic".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConvergenceError
from rectiflow_proteins.frames import beta_carbons, frames_from_atoms, unit, with_oxygens
from rectiflow_proteins.topologies import KINDS, MEANDERS, TURN, Topology, draw_topology
from rectiflow_proteins.torsions import atoms_from_torsions

BLOCK = 192
CANDIDATES = 24
DESCENT, MEANDER_DESCENT = 90, 150
ATTEMPTS = 40
LEAST_BATCH = 16

# Degrees: phi and psi, and how far a torsion may stray.
_HELIX, _STRAND = (-63.0, -43.0), (-118.0, 136.0)
_TURNS = (((60.0, 30.0), (90.0, 0.0)), ((60.0, -120.0), (-80.0, 0.0)))  # types I' and II'
_COILS = ((-63.0, -43.0), (-120.0, 130.0), (-70.0, 145.0), (57.0, 40.0))
_COIL_SHARES = (0.35, 0.30, 0.25, 0.10)
_FREEDOM, _COIL_SPREAD, _STRAND_FREEDOM, _OMEGA_SPREAD = 5.0, 18.0, 15.0, 2.0
_DRAFT_NOISE = 0.7

_BOND_NITROGEN_OXYGEN, _BOND_HYDROGEN_OXYGEN, _NITROGEN_HYDROGEN = 2.9, 1.95, 1.01
_BONDED_ALPHAS, _FACING_ALPHAS = 5.5, 4.5
_CENTROID = 2.4  # Angstrom from CA towards CB: where the middle of an average side chain lies
# What points of residues three or more apart keep from each other; points are N, CA, C, O and the side chain's centroid.
_KEPT = (
    (1, 1, 4.0),
    (3, 3, 3.3),
    (1, 3, 3.3),
    (3, 0, 2.85),
    (3, 2, 3.2),
    (4, 4, 3.9),
    (4, 3, 3.3),
    (4, 1, 3.9),
)
_COMPACT = (1.0, 1.25)  # radius of gyration over 2.2 N^0.38 that folds are pressed to, each to its own


@dataclass(frozen=True)
class Fold:
    """One synthetic backbone: its letters, torsions (N, 3) in radians, and atoms N, CA, C, O, (N, 4, 3), centred, in Angstrom."""

    letters: str
    kind: str
    torsions: Tensor
    atoms: Tensor


def generate_folds(lengths: Sequence[int], generator: torch.Generator, kinds: Sequence[str] = KINDS) -> list[Fold]:
    """One fold for each length, 24 to 128, the kinds in turn.

    They are made in blocks, each seeded by one draw of the generator: more lengths leave the folds of earlier blocks as they are.

    Raises:
        ConfigError: a length or kind that the grammar does not have.
        ConvergenceError: a fold without clashes was not found.
    """
    folds = []
    for start in range(0, len(lengths), BLOCK):
        seed = int(torch.randint(2**62, (), generator=generator))
        wanted = [(lengths[i], kinds[i % len(kinds)]) for i in range(start, min(start + BLOCK, len(lengths)))]
        folds += _block(wanted, torch.Generator().manual_seed(seed))
    return folds


def _block(wanted: list[tuple[int, str]], generator: torch.Generator) -> list[Fold]:
    found: list[Fold | None] = [None] * len(wanted)
    for _ in range(ATTEMPTS):
        missing = [i for i, fold in enumerate(found) if fold is None]
        if not missing:
            break
        # A batch of a few costs as much as one of many: the last ones missing are tried several times at once.
        rows = missing * max(1, LEAST_BATCH // len(missing))
        topologies = [draw_topology(*wanted[i], generator) for i in rows]
        atoms, torsions, accepted = _build(topologies, generator)
        for row, i in enumerate(rows):
            if accepted[row] and found[i] is None:
                letters = topologies[row].letters
                end = len(letters)
                found[i] = Fold(letters, wanted[i][1], torsions[row, :end].clone(), atoms[row, :end].clone())
    folds = [fold for fold in found if fold is not None]
    if len(folds) < len(wanted):
        raise ConvergenceError(
            f"{len(wanted) - len(folds)} of {len(wanted)} synthetic folds still clash after {ATTEMPTS} attempts; "
            "ask for shorter ones"
        )
    return folds


def _build(topologies: list[Topology], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Centred atoms (B, N, 4, 3) and torsions (B, N, 3), padded, and which of them (B,) came out well."""
    drafts, freedom, mask = _drafts(topologies, _meander_torsions(), generator)
    with torch.no_grad():
        score = torch.stack([_crowding(drafts[:, k], mask) for k in range(CANDIDATES)], 1)
    draft = drafts[torch.arange(len(drafts)), score.argmin(1)]
    low, high = _COMPACT
    compact = low + (high - low) * torch.rand(len(drafts), generator=generator)
    atoms, torsions = _descend(draft, freedom, mask, topologies, DESCENT, compact)
    return atoms, torsions, _acceptable(atoms, mask, _pairs(topologies)[0])


def _descend(
    draft: Tensor, freedom: Tensor, mask: Tensor, topologies: list[Topology], steps: int, compact: Tensor
) -> tuple[Tensor, Tensor]:
    """Centred atoms (B, N, 4, 3) and torsions (B, N, 3) of least energy near a draft, from which `freedom` lets them stray."""
    bonded, facing = _pairs(topologies)
    torsions = draft.clone().requires_grad_()
    optimiser = torch.optim.Adam([torsions])
    for step in range(steps):
        done = step / steps
        optimiser.param_groups[0]["lr"] = 0.04 * (1 - done) + 0.002
        restraint = ((torsions - draft) / freedom).square()[mask].sum() / 2
        # Hydrogen bonds form first; hard walls from the start would trap the chain.
        energy = restraint + _energy(torsions, mask, bonded, facing, walls=4 + 26 * done, compact=compact)
        torsions.grad = torch.autograd.grad(energy, torsions)[0]
        optimiser.step()
    with torch.no_grad():
        atoms = with_oxygens(atoms_from_torsions(torsions), mask)
        centre = (atoms[:, :, 1] * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        return (atoms - centre[:, None, None]) * mask[..., None, None], torsions.detach()


@functools.cache
def _meander_torsions() -> dict[tuple[int, int, int], Tensor]:
    """Torsions (N, 3) of each meander (strands, residues a strand, kind of turn) with its hydrogen bonds formed."""
    kinds = [(meander, turn) for meander in MEANDERS for turn in range(len(_TURNS))]
    longest = max(len(meander.letters) for meander in MEANDERS)
    draft, mask = torch.full((len(kinds), longest, 3), 180.0), torch.zeros(len(kinds), longest, dtype=torch.bool)
    for row, (meander, turn) in enumerate(kinds):
        letters = meander.letters
        mask[row, : len(letters)] = True
        for i, letter in enumerate(letters):
            place = _TURNS[turn][letters[i - 1] == TURN] if letter == TURN else _STRAND
            draft[row, i, :2] = torch.tensor(place)
    topologies = [Topology(meander.letters, (meander,)) for meander, _ in kinds]
    freedom = torch.deg2rad(torch.tensor([_STRAND_FREEDOM, _STRAND_FREEDOM, _OMEGA_SPREAD])).expand_as(draft)
    _, torsions = _descend(
        torch.deg2rad(draft), freedom, mask, topologies, MEANDER_DESCENT, torch.full((len(kinds),), 9.0)
    )
    return {
        (meander.count, meander.size, turn): torsions[row, : len(meander.letters)]
        for row, (meander, turn) in enumerate(kinds)
    }


def _drafts(
    topologies: list[Topology], meanders: dict[tuple[int, int, int], Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """K draws of torsions (B, K, N, 3), how freely they move (B, N, 3), both in radians, and the mask (B, N)."""
    longest = max(len(topology.letters) for topology in topologies)
    shape = (len(topologies), longest, 3)
    goal, freedom = torch.zeros(shape), torch.full(shape, math.radians(_FREEDOM))
    goal[..., 2] = math.pi
    freedom[..., 2] = math.radians(_OMEGA_SPREAD)
    letters = [topology.letters.ljust(longest) for topology in topologies]
    mask, coil, helix = (torch.tensor([[c in kind for c in row] for row in letters]) for kind in ("CHET", "C", "H"))
    goal[..., :2] = torch.where(helix[..., None], torch.deg2rad(torch.tensor(_HELIX)), 0)
    freedom[..., :2] = torch.where(coil[..., None], math.radians(_COIL_SPREAD), freedom[..., :2])
    for row, topology in enumerate(topologies):
        for meander in topology.meanders:
            turn = int(torch.randint(len(_TURNS), (), generator=generator))
            ready = meanders[meander.count, meander.size, turn]
            goal[row, meander.start : meander.start + len(ready)] = ready
    drafts = goal[:, None].expand(-1, CANDIDATES, -1, -1).clone()
    shares = torch.tensor(_COIL_SHARES)
    chosen = torch.multinomial(shares, drafts[..., 0].numel(), replacement=True, generator=generator)
    basins = torch.deg2rad(torch.tensor(_COILS))[chosen].reshape(*drafts.shape[:3], 2)
    drafts[..., :2] = torch.where(coil[:, None, :, None], basins, drafts[..., :2])
    noise = torch.randn(drafts.shape, generator=generator)
    return drafts + noise * freedom[:, None] * _DRAFT_NOISE * mask[:, None, :, None], freedom, mask


def _pairs(topologies: list[Topology]) -> tuple[Tensor, Tensor]:
    """Rows (P, 3), which fold and which two residues, of the pairs with hydrogen bonds and of those without."""
    bonded, facing = [], []
    for row, topology in enumerate(topologies):
        for meander in topology.meanders:
            with_bonds, without = meander.pairs()
            bonded += [(row, i, j) for i, j in with_bonds]
            facing += [(row, i, j) for i, j in without]
    one, two = (torch.tensor(rows, dtype=torch.int64).reshape(-1, 3) for rows in (bonded, facing))
    return one, two


def _crowding(torsions: Tensor, mask: Tensor) -> Tensor:
    """(B,) how far from compact and free of clashes a first draft is, by its CA alone."""
    alphas = atoms_from_torsions(torsions)[:, :, 1]
    short = (4.2**2 - _squares(alphas, alphas)).clamp(min=0) * _apart_mask(mask) / (2 * 4.2)
    return 20 * (_gyration_ratio(alphas, mask) - _COMPACT[0]).clamp(min=0) + short.square().sum((1, 2))


def _energy(torsions: Tensor, mask: Tensor, bonds: Tensor, facing: Tensor, walls: float, compact: Tensor) -> Tensor:
    """Hydrogen bonds, strand distances, clashes and size of all folds, summed."""
    atoms = with_oxygens(atoms_from_torsions(torsions), mask)
    energy = torsions.new_zeros(())
    if len(bonds):
        energy = energy + _bond_energy(atoms, bonds) + _bond_energy(atoms, bonds[:, [0, 2, 1]])
        for pairs, length in ((bonds, _BONDED_ALPHAS), (facing, _FACING_ALPHAS)):
            distance = torch.linalg.vector_norm(
                atoms[pairs[:, 0], pairs[:, 1], 1] - atoms[pairs[:, 0], pairs[:, 2], 1], dim=-1
            )
            energy = energy + 4 * (distance - length).square().clamp(max=50).sum()
    rotations, alphas = frames_from_atoms(atoms, mask)
    centroids = alphas + _CENTROID * unit(beta_carbons(rotations, alphas) - alphas)
    points = torch.cat((atoms, centroids[:, :, None]), 2)
    near = ~_apart_mask(mask)
    for first, second, least in _KEPT:
        # (r^2 - d^2) / 2r is r - d near r, and needs no root.
        short = (least**2 - _squares(points[:, :, first], points[:, :, second])).clamp(min=0).masked_fill(near, 0)
        energy = energy + walls * (short / (2 * least)).square().sum()
    excess = (_gyration_ratio(alphas, mask) - compact).clamp(min=0)
    return energy + (mask.sum(1) * 60 * excess.square()).sum()


def _bond_energy(atoms: Tensor, pairs: Tensor) -> Tensor:
    """The hydrogen of the second residue of each pair bonds to the oxygen of the first."""
    rows, acceptor, donor = pairs.unbind(1)
    oxygen, nitrogen = atoms[rows, acceptor, 3], atoms[rows, donor, 0]
    away = unit(nitrogen - atoms[rows, donor, 1]) + unit(nitrogen - atoms[rows, (donor - 1).clamp(min=0), 2])
    hydrogen = nitrogen + _NITROGEN_HYDROGEN * unit(away)
    long = torch.linalg.vector_norm(oxygen - nitrogen, dim=-1) - _BOND_NITROGEN_OXYGEN
    short = torch.linalg.vector_norm(oxygen - hydrogen, dim=-1) - _BOND_HYDROGEN_OXYGEN
    energy: Tensor = 8 * (long.square() + short.square() * (donor > 0)).clamp(max=60).sum()
    return energy


def _apart_mask(mask: Tensor) -> Tensor:
    """(B, N, N) pairs of residues of a fold that are three or more apart."""
    residue = torch.arange(mask.shape[1])
    return ((residue[:, None] - residue).abs() >= 3) & mask[:, :, None] & mask[:, None, :]


def _squares(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances (B, N, N) of points (B, N, 3), by a matrix product: to 1e-4 square Angstrom, fast."""
    lengths = first.square().sum(-1)[:, :, None] + second.square().sum(-1)[:, None, :]
    squares: Tensor = torch.baddbmm(lengths, first, second.mT, alpha=-2)
    return squares


def _gyration_ratio(alphas: Tensor, mask: Tensor) -> Tensor:
    """(B,) radius of gyration over the 2.2 N^0.38 of compact proteins."""
    count = mask.sum(1)
    centre = (alphas * mask[..., None]).sum(1) / count[:, None]
    square = ((alphas - centre[:, None]).square().sum(-1) * mask).sum(1) / count
    return square.sqrt() / (2.2 * count.pow(0.38))


def _acceptable(atoms: Tensor, mask: Tensor, bonds: Tensor) -> Tensor:
    """(B,) no clash of backbone atoms, a compact shape, and hydrogen bonds between 2.5 and 3.4 Angstrom."""
    good = _gyration_ratio(atoms[:, :, 1], mask) < 1.35
    apart = _apart_mask(mask)
    for i in range(4):
        for j in range(4):
            least = 2.6 if {i, j} == {0, 3} else 2.9 if i == j == 3 else 3.0 if (i, j) != (1, 1) else 3.7
            short = (_squares(atoms[:, :, i], atoms[:, :, j]) < least**2) & apart
            good &= ~short.any(2).any(1)
    for acceptor, donor in ((1, 2), (2, 1)):
        gap = torch.linalg.vector_norm(
            atoms[bonds[:, 0], bonds[:, acceptor], 3] - atoms[bonds[:, 0], bonds[:, donor], 0], dim=-1
        )
        outside = ((gap < 2.5) | (gap > 3.4)).float()
        good &= torch.zeros(len(atoms)).index_add(0, bonds[:, 0], outside) == 0
    return good
