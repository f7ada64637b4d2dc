"""Motif scaffolding: backbones that hold given residues in given places relative to each other, by guidance of any run.

A motif is wherever it fits: it is superposed onto each estimate of the network, which is then moved, places and turns, to what
the motif has. A network that was told of motifs in training (`model.told=[…,motif]`) can be told of this one too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import Solution, integrate
from rectiflow.spaces import quaternions
from rectiflow_proteins.alignment import rmsd, superpose
from rectiflow_proteins.flow import settled
from rectiflow_proteins.frames import frames_from_atoms

REACH = 2.0


@dataclass(frozen=True)
class Motif:
    """Frames that are given, and where in the chain they go.

    Attributes:
        places: (M,) residue numbers from 0, increasing; gaps make several segments.
        translations: (M, 3) CA positions in Angstrom, in any position and orientation.
        rotations: (M, 4) unit quaternions (w, x, y, z) that go with them.

    Raises:
        ConfigError: fewer than three residues, places that do not increase, or another number of frames.
    """

    places: Tensor
    translations: Tensor
    rotations: Tensor

    def __post_init__(self) -> None:
        count = len(self.places)
        if count < 3 or bool((self.places[1:] <= self.places[:-1]).any()) or int(self.places[0]) < 0:
            raise ConfigError(
                f"motif has places {self.places.tolist()}; they must be three or more and increase from 0 or above"
            )
        if self.translations.shape != (count, 3) or self.rotations.shape != (count, 4):
            raise ConfigError(
                f"motif of {count} places has translations {tuple(self.translations.shape)} and rotations "
                f"{tuple(self.rotations.shape)}; they must be ({count}, 3) and ({count}, 4)"
            )

    @classmethod
    def of(cls, atoms: Tensor, start: int) -> Motif:
        """The motif of backbone atoms N, CA, C (M, 3 or 4, 3), placed from residue `start` (from 0) on."""
        rotations, translations = frames_from_atoms(atoms)
        return cls(torch.arange(start, start + len(atoms)), translations, rotations)

    def conditions(self, cond: Cond) -> Cond:
        """`cond` with this motif in every chain, for a network that was told of motifs.

        Raises:
            ConfigError: the motif reaches beyond a chain.
        """
        mask = cond["mask"]
        if not bool(mask[:, self.places[-1] :].any(1).all()):
            raise ConfigError(
                f"motif ends at residue {int(self.places[-1]) + 1}; the shortest chain has {int(mask.sum(1).min())}: "
                "ask for longer chains or place it earlier"
            )
        inside = torch.zeros_like(mask)
        inside[:, self.places] = True
        translations = self.translations.new_zeros(*mask.shape, 3)
        rotations = self.rotations.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(*mask.shape, 1)
        translations[:, self.places], rotations[:, self.places] = self.translations, self.rotations
        return {**cond, "motif": inside, "motif_translations": translations, "motif_rotations": rotations}


def hold(estimate: dict[str, Tensor], motif: Motif, mask: Tensor, strength: float = 1.0) -> dict[str, Tensor]:
    """An estimate whose motif has been moved to where it should be, and the chain beside it along.

    The motif is superposed onto the estimate's. Each of its residues is then carried to its place and turn by a rigid motion, and
    every other residue by the share exp(-d / 2) of the motion of the nearest one, d residues away: an estimate's chain stays
    whole at the ends of the motif.

    Args:
        estimate: translations (B, N, 3) and rotations (B, N, 4).
        motif: what to hold.
        mask: bool (B, N), True at residues.
        strength: share of the way that the motif itself goes, in (0, 1].
    """
    x, q = estimate["translations"], estimate["rotations"]
    target = motif.translations.to(x).expand(len(x), -1, 3)
    turn, shift = superpose(target, x[:, motif.places])
    places = torch.einsum("bij,bnj->bni", turn, target) + shift[:, None]
    frames = quaternions.from_matrix(turn)[:, None].expand(-1, len(motif.places), 4)
    turns = quaternions.multiply(frames, motif.rotations.to(q).expand_as(frames))
    gaps = (torch.arange(x.shape[1])[:, None] - motif.places).abs()
    nearest = gaps.argmin(1)
    share = strength * torch.exp(-gaps.amin(1) / REACH).to(x)[:, None]
    old = motif.places[nearest]
    # In the world's axes, so that one motion serves residues of any turn.
    motion = quaternions.log(quaternions.multiply(turns[:, nearest], quaternions.conjugate(q[:, old])))
    part = quaternions.exp(share * motion)
    moved = x[:, old] + share * (places[:, nearest] - x[:, old]) + quaternions.rotate(part, x - x[:, old])
    return settled({"translations": moved, "rotations": quaternions.normalize(quaternions.multiply(part, q))}, mask)


def scaffold(
    flow: Flow,
    x0: dict[str, Tensor],
    motif: Motif,
    cond: Cond,
    *,
    steps: int,
    strength: float = 1.0,
    told: bool = False,
) -> Solution:
    """Carry noise to backbones that hold the motif, in ddim steps.

    Every estimate but the last is made to hold the motif before the state approaches it and before the network is shown it again
    (self-conditioning). The last is the network's own, so that what joins motif and scaffold is as sound as the rest.

    Args:
        flow: of frames, predicting data.
        x0: translations (B, N, 3) and rotations (B, N, 4) of noise.
        motif: what to hold.
        cond: conditions of the chains.
        steps: evaluations; with a single one nothing is held.
        strength: as of `hold`.
        told: whether the network was trained with motifs and is to be told of this one.

    Raises:
        ConfigError: a motif beyond the end of a chain, or as in `integrate`.
    """
    given = motif.conditions(cond)
    last = 1 - 1.5 / steps

    def model(x: dict[str, Tensor], t: Tensor, **shown: Tensor) -> dict[str, Tensor]:
        estimate: dict[str, Tensor] = flow.model(x, t, **shown)
        return estimate if float(t[0]) > last else hold(estimate, motif, cond["mask"], strength)

    return integrate(replace(flow, model=model), x0, steps=steps, method="ddim", cond=given if told else cond)


def motif_rmsd(motif: Motif, translations: Tensor) -> Tensor:
    """RMSD (B,), Angstrom, of the motif's CA in backbones with CA (B, N, 3), after superposition of the motif alone."""
    found = translations[:, motif.places]
    return rmsd(found, motif.translations.to(found).expand_as(found))
