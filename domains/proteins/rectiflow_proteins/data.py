"""Chains as tensors: synthetic folds, real chains out of packages, and structure files of one's own."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, DataError
from rectiflow_proteins.frames import with_oxygens
from rectiflow_proteins.grammar import generate_folds
from rectiflow_proteins.reading import cluster, read_folder, summary
from rectiflow_proteins.secondary import secondary_structure
from rectiflow_proteins.torsions import atoms_from_torsions

_log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).with_name("grammar.npz")
EMBEDDED_LENGTHS = (24, 48)
TWENTIETHS = 20  # stored torsions are whole numbers of 1/20 degree: 0.01 Angstrom over 48 residues
HELD_OUT = 6  # one chain, or cluster of chains, in so many


@dataclass(frozen=True)
class Chains:
    """Backbones of one split, one behind the other.

    atoms: (sum of N, 4, 3) float32, N, CA, C and O in Angstrom, each chain centred on its mean CA; lengths: (C,) int64;
    structure: (sum of N,) int64 into `secondary.STATES`; names: one a chain; sequences: one-letter residues, "" for
    synthetic folds.

    Raises:
        DataError: an empty set, parts of other shapes, or coordinates that are not finite.
    """

    atoms: Tensor
    lengths: Tensor
    structure: Tensor
    names: tuple[str, ...]
    sequences: tuple[str, ...]

    def __post_init__(self) -> None:
        total, count = int(self.lengths.sum()), len(self.lengths)
        if not count or self.atoms.shape != (total, 4, 3) or self.structure.shape != (total,):
            raise DataError(
                f"{count} chains of {total} residues came with atoms {tuple(self.atoms.shape)} and structure "
                f"{tuple(self.structure.shape)}; they must be ({total}, 4, 3) and ({total},), of one chain at least"
            )
        if len(self.names) != count or len(self.sequences) != count or not bool(self.atoms.isfinite().all()):
            raise DataError(
                f"{count} chains came with {len(self.names)} names, {len(self.sequences)} sequences, coordinates finite: "
                f"{bool(self.atoms.isfinite().all())}; there must be one of each and no NaN: check the reader"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def chain(self, index: int) -> Tensor:
        """Atoms (N, 4, 3) of one chain."""
        return self.atoms[self._rows(index)]

    def states(self, index: int) -> Tensor:
        """Secondary structure (N,) of one chain."""
        return self.structure[self._rows(index)]

    def select(self, indices: Sequence[int]) -> Chains:
        """The chains at `indices`, in that order."""
        return join(
            [self.chain(i) for i in indices],
            [self.states(i) for i in indices],
            [self.names[i] for i in indices],
            [self.sequences[i] for i in indices],
        )

    def padded(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Atoms (B, N, 4, 3), secondary structure (B, N) and mask (B, N) of some chains, N that of the longest."""
        longest = int(self.lengths[list(indices)].max())
        atoms = torch.zeros(len(indices), longest, 4, 3)
        states = torch.zeros(len(indices), longest, dtype=torch.int64)
        mask = torch.zeros(len(indices), longest, dtype=torch.bool)
        for row, index in enumerate(indices):
            length = int(self.lengths[index])
            atoms[row, :length], states[row, :length] = self.chain(index), self.states(index)
            mask[row, :length] = True
        return atoms, states, mask

    def _rows(self, index: int) -> slice:
        return slice(self._ends[index] - int(self.lengths[index]), self._ends[index])

    @cached_property
    def _ends(self) -> list[int]:
        ends: list[int] = self.lengths.cumsum(0).tolist()
        return ends


Split = tuple[Chains, Chains]


def join(
    atoms: Sequence[Tensor], structure: Sequence[Tensor], names: Sequence[str], sequences: Sequence[str]
) -> Chains:
    """Chains of atoms (N, 4, 3), centred here, and of their secondary structure (N,).

    Raises:
        DataError: no chain at all.
    """
    if not atoms:
        raise DataError("there is no chain to train on; check data.shortest, data.longest and data.path")
    centred = [chain.float() - chain[:, 1].float().mean(0) for chain in atoms]
    lengths = torch.tensor([len(chain) for chain in centred])
    return Chains(torch.cat(centred), lengths, torch.cat(list(structure)), tuple(names), tuple(sequences))


def grammar_folds(shortest: int, longest: int) -> Split:
    """The synthetic folds of 24 to 48 residues that come with the package, those of the lengths asked for.

    Raises:
        ConfigError: lengths outside 24 to 48, or in the wrong order.
    """
    least, most = EMBEDDED_LENGTHS
    if not least <= shortest <= longest <= most:
        raise ConfigError(
            f"data.shortest={shortest}, data.longest={longest}: the folds in the package have {least} to {most} residues; "
            "choose among those, or data=synthetic for others"
        )
    chains, places = _stored_folds(EMBEDDED, shortest, longest)
    return split(chains, places)


def synthetic_folds(shortest: int, longest: int, count: int, seed: int) -> Split:
    """`count` new synthetic folds with lengths spread evenly, 24 to 128 residues; made once, then read from the cache.

    Raises:
        ConfigError: lengths that the grammar does not have, or fewer than two folds.
        ConvergenceError: a fold without clashes was not found.
        StorageError: the cache cannot be written.
    """
    if count < 2 or shortest > longest:
        raise ConfigError(
            f"data.count={count}, data.shortest={shortest}, data.longest={longest}: at least 2 folds are needed, "
            "and shortest must not exceed longest"
        )
    path = cache_folder("proteins", "synthetic") / f"{shortest}-{longest}-{count}-{seed}.npz"
    if not path.is_file():
        store_folds(path, spread_lengths(shortest, longest, count), torch.Generator().manual_seed(seed))
    return split(*_stored_folds(path, shortest, longest))


def spread_lengths(shortest: int, longest: int, count: int) -> list[int]:
    """`count` lengths that visit every one between the two equally often, in an order that mixes them."""
    span = longest - shortest + 1
    stride = next(step for step in range(max(1, int(span * 0.618)), span + 2) if np.gcd(step, span) == 1)
    return [shortest + i * stride % span for i in range(count)]


def store_folds(path: Path, lengths: Sequence[int], generator: torch.Generator) -> None:
    """Make synthetic folds and write their torsions and secondary structure to an npz; `Raises` as `generate_folds`."""
    folds = generate_folds(lengths, generator)
    chains = [_chain(_rounded(fold.torsions)) for fold in folds]
    states = secondary_structure([chain[:, 1] for chain in chains])
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        allow_pickle=False,
        # Torsions one after the other, high bytes apart from low ones: half the size when compressed.
        torsions=np.concatenate([_rounded(fold.torsions).numpy() for fold in folds]).T.copy().view(np.uint8)[:, 0::2],
        coarse=np.concatenate([_rounded(fold.torsions).numpy() for fold in folds]).T.copy().view(np.uint8)[:, 1::2],
        structure=torch.cat(states).numpy().astype(np.uint8),
        lengths=np.array(lengths, np.uint8),
        names=np.array([f"synthetic-{fold.kind}" for fold in folds]),
    )
    partial.replace(path)


def _rounded(torsions: Tensor) -> Tensor:
    wrapped = torch.rad2deg(torch.atan2(torsions.sin(), torsions.cos()))
    return (wrapped * TWENTIETHS).round().to(torch.int16)


def _chain(twentieths: Tensor) -> Tensor:
    return with_oxygens(atoms_from_torsions(torch.deg2rad(twentieths.double() / TWENTIETHS))).float()


def _stored_folds(path: Path, shortest: int, longest: int) -> tuple[Chains, list[int]]:
    """The folds of these lengths, and their places among all, by which they are split."""
    with np.load(path, allow_pickle=False) as arrays:
        halves = np.stack((arrays["torsions"], arrays["coarse"]), -1)
        twentieths = torch.from_numpy(halves.reshape(3, -1).copy().view("<i2").T.copy())
        lengths = arrays["lengths"].astype(np.int64).tolist()
        structure = torch.from_numpy(arrays["structure"].astype(np.int64))
        names = arrays["names"].tolist()
    pieces, states = torch.split(twentieths, lengths), torch.split(structure, lengths)
    atoms: dict[int, Tensor] = {}
    # All chains of one length at a time.
    for length in range(shortest, longest + 1):
        members = [i for i, own in enumerate(lengths) if own == length]
        if members:
            atoms.update(zip(members, _chain(torch.stack([pieces[i] for i in members])), strict=True))
    kept = sorted(atoms)
    return join([atoms[i] for i in kept], [states[i] for i in kept], [names[i] for i in kept], [""] * len(kept)), kept


def split(chains: Chains, clusters: Sequence[int]) -> Split:
    """Train and validation chains; all of one cluster are on one side, the same one always.

    Raises:
        DataError: fewer than two clusters.
    """
    held = {c for c in set(clusters) if int(hashlib.sha256(str(c).encode()).hexdigest()[:8], 16) % HELD_OUT == 0}
    held = held or {min(clusters)}
    train = [i for i, cluster in enumerate(clusters) if cluster not in held]
    if not train:
        raise DataError(f"{len(set(clusters))} cluster of chains; one is trained on and one held out: give more chains")
    return chains.select(train), chains.select([i for i, cluster in enumerate(clusters) if cluster in held])


def fetched_chains(shortest: int, longest: int) -> Split:
    """The real chains that `rectiflow fetch proteins chains` placed in the cache, split by cluster of sequences.

    Raises:
        DataError: they were not fetched, or the file is damaged.
    """
    path = cache_folder("proteins") / "chains" / "chains.npz"
    if not path.is_file():
        raise DataError(f"{path} is missing: run `rectiflow fetch proteins chains` first")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            lengths = arrays["lengths"].tolist()
            atoms = torch.split(torch.from_numpy(arrays["atoms"]), lengths)
            clusters, names, sequences = (arrays[name].tolist() for name in ("clusters", "names", "sequences"))
    except (OSError, ValueError, KeyError, BadZipFile, RuntimeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): delete {path.parent} and run `rectiflow fetch proteins chains` again"
        ) from error
    kept = [i for i, length in enumerate(lengths) if shortest <= length <= longest]
    return _from_segments(
        [atoms[i] for i in kept], [names[i] for i in kept], [sequences[i] for i in kept], [clusters[i] for i in kept]
    )


def structure_folder(path: str, shortest: int, longest: int, on_error: str = "skip") -> Split:
    """Backbones of the PDB and mmCIF files below a folder, split by cluster of sequences; what was rejected is logged.

    Raises:
        ConfigError: `on_error` is neither skip nor raise.
        DataError: no usable chain, or with `on_error="raise"`, a file that cannot be read.
    """
    if on_error not in ("skip", "raise"):
        raise ConfigError(f"data.on_error={on_error} is not allowed; allowed: skip, raise")
    segments, rejections = read_folder(Path(path), shortest, longest, on_error=on_error)
    _log.warning("%s: %s", path, summary(segments, rejections))
    for rejection in rejections:
        _log.info("%s", rejection)
    sequences = [segment.sequence for segment in segments]
    return _from_segments(
        [segment.atoms for segment in segments], [segment.name for segment in segments], sequences, cluster(sequences)
    )


def _from_segments(
    atoms: Sequence[Tensor], names: Sequence[str], sequences: Sequence[str], clusters: Sequence[int]
) -> Split:
    states = secondary_structure([chain[:, 1] for chain in atoms])
    return split(join(atoms, states, names, sequences), clusters)
