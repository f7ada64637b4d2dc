"""Chains as batches of frames, and what is told of them: length, secondary structure, or a motif."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond
from rectiflow.errors import ConfigError
from rectiflow.training.randomness import stream_seed
from rectiflow_proteins.data import Chains
from rectiflow_proteins.flow import FREE_LABEL, settled
from rectiflow_proteins.frames import frames_from_atoms
from rectiflow_proteins.secondary import STATES

TOLD = ("content", "labels", "motif")
MOTIF_SHARES = (0.2, 0.5)


class FrameDataset:
    """Chains of one split as batches of frames, every batch of one length where that is possible.

    A batch takes the length of its first chain and fills up with others of that length (padding is work for nothing, and optimal
    transport needs equal sizes), so chains are drawn with replacement. Index i stands for chain i modulo their number; i over
    their number says what is told of it.

    Args:
        chains: one split.
        told: what is told in turn, of content | labels | motif.
        fewest: the least number of chains in a bucket; neighbouring lengths share one where they have fewer, with padding.

    Raises:
        ConfigError: nothing to tell, or something unknown.
    """

    replacement = True

    def __init__(self, chains: Chains, told: Sequence[str] = ("content",), fewest: int = 16) -> None:
        check_told(told)
        self.chains = chains
        self.told = tuple(told)
        self._buckets = buckets_of(chains.lengths.tolist(), fewest)
        self._own = {index: bucket for bucket in self._buckets for index in bucket}

    def __len__(self) -> int:
        return len(self.chains) * len(self.told)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The first chain and others of its length."""
        members = self._own[indices[0] % len(self.chains)]
        chosen = [members[index % len(members)] for index in indices]
        atoms, states, mask = self.chains.padded(chosen)
        rotations, translations = frames_from_atoms(atoms, mask)
        x1 = settled({"translations": translations, "rotations": rotations}, mask)
        told = [self.told[index // len(self.chains)] for index in indices]
        cond = conditions_of(states, mask, told)
        if "motif" in self.told:
            motif = torch.stack([motif_of(index, row) for index, row in zip(indices, mask, strict=True)])
            motif &= torch.tensor([name == "motif" for name in told])[:, None]
            cond |= {"motif": motif} | {f"motif_{name}": part for name, part in x1.items()}
        return Batch(x1=x1, cond=cond, mask=mask)


def buckets_of(lengths: Sequence[int], fewest: int) -> list[list[int]]:
    """Indices of chains of equal length together, and of neighbouring lengths until there are `fewest` (or the end comes)."""
    buckets: list[list[int]] = [[]]
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for position, index in enumerate(order):
        last = buckets[-1]
        if len(last) >= fewest and lengths[index] != lengths[order[position - 1]]:
            buckets.append([])
        buckets[-1].append(index)
    if len(buckets) > 1 and len(buckets[-1]) < fewest:
        buckets[-2] += buckets.pop()
    return buckets


def check_told(told: Sequence[str]) -> None:
    """Refuse conditions that a network is not made for.

    Raises:
        ConfigError: nothing, or something unknown.
    """
    if not told or not set(told) <= set(TOLD):
        raise ConfigError(f"model.told is {list(told)}; allowed: one or more of {', '.join(TOLD)}")


def conditions_of(states: Tensor, mask: Tensor, told: Sequence[str]) -> Cond:
    """Mask (B, N), shares of helix and strand (B, 2), and states (B, N) where `told` says labels, free elsewhere."""
    labelled = torch.tensor([name == "labels" for name in told])[:, None]
    return {
        "mask": mask,
        "content": content_of(states, mask),
        "labels": torch.where(labelled & mask, states, FREE_LABEL),
    }


def content_of(states: Tensor, mask: Tensor) -> Tensor:
    """Shares of helix and strand (B, 2) among the residues of states (B, N)."""
    shares = [((states == STATES.index(name)) & mask).sum(1) / mask.sum(1) for name in ("helix", "strand")]
    return torch.stack(shares, 1).float()


def motif_of(index: int, mask: Tensor) -> Tensor:
    """One contiguous motif, bool (N,), of a fifth to half of a chain: a function of the index alone."""
    length = int(mask.sum())
    least, most = (max(3, round(share * length)) for share in MOTIF_SHARES)
    generator = torch.Generator().manual_seed(stream_seed(index, "motif"))
    size = int(torch.randint(least, most + 1, (), generator=generator))
    start = int(torch.randint(length - size + 1, (), generator=generator))
    place = torch.arange(len(mask))
    return (place >= start) & (place < start + size)
