"""Motif scaffolding: backbones that hold given residues in given places relative to each other, by guidance of any run.

A motif is wherever it fits: it is superposed onto each estimate of the network, which is then pulled, positions and turns,
to what the motif has. A network that was told of motifs in training (`model.told=[…,motif]`) can be told of this one too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.control.loss_guidance import sample_with_loss
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import Solution
from rectiflow.spaces import quaternions
from rectiflow.spaces.so3 import SO3
from rectiflow_proteins.alignment import rmsd, superpose
from rectiflow_proteins.frames import frames_from_atoms


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


def motif_loss(motif: Motif, rotation_weight: float = 1.0) -> Callable[[dict[str, Tensor]], Tensor]:
    """Half the sum over the motif of squared distances and, times `rotation_weight`, squared angles, after superposition.

    A step of size one along the negative gradient puts the motif's residues of an estimate where they should be.
    """

    def loss(estimate: dict[str, Tensor]) -> Tensor:
        x = estimate["translations"][:, motif.places]
        q = estimate["rotations"][:, motif.places]
        target = motif.translations.to(x).expand_as(x)
        # The best superposition is a minimum: its own gradient vanishes.
        with torch.no_grad():
            turn, shift = superpose(target, x)
            frames = quaternions.from_matrix(turn)[:, None].expand_as(q)
        places = torch.einsum("bij,bnj->bni", turn, target) + shift[:, None]
        turns = quaternions.multiply(frames, motif.rotations.to(q).expand_as(q))
        angles = SO3().log(q, turns)
        return ((x - places).square().sum((1, 2)) + rotation_weight * angles.square().sum((1, 2))) / 2

    return loss


def scaffold(
    flow: Flow,
    x0: dict[str, Tensor],
    motif: Motif,
    cond: Cond,
    *,
    steps: int,
    strength: float = 1.0,
    corrections: int = 1,
    told: bool = False,
) -> Solution:
    """Carry noise to backbones that hold the motif.

    Args:
        flow: of frames.
        x0: translations (B, N, 3) and rotations (B, N, 4) of noise.
        motif: what to hold.
        cond: conditions of the chains.
        steps: Euler steps.
        strength: size of the descent at t = 1, in (0, 1]; it grows like t, for early estimates are averages.
        corrections: descents a step.
        told: whether the network was trained with motifs and is to be told of this one.

    Raises:
        ConfigError: a motif beyond the end of a chain, or as in `sample_with_loss`.
    """
    told_cond = motif.conditions(cond)
    return sample_with_loss(
        flow,
        x0,
        motif_loss(motif),
        step_size=lambda t: strength * t,
        steps=steps,
        corrections=corrections,
        cond=told_cond if told else cond,
    )


def motif_rmsd(motif: Motif, translations: Tensor) -> Tensor:
    """RMSD (B,), Angstrom, of the motif's CA in backbones with CA (B, N, 3), after superposition of the motif alone."""
    found = translations[:, motif.places]
    return rmsd(found, motif.translations.to(found).expand_as(found))
