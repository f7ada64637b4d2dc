"""What `rectiflow sample proteins` may ask for, as conditions: `cond.length`, `cond.helix`, `cond.strand`, `cond.labels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError
from rectiflow_proteins.batches import content_of
from rectiflow_proteins.data import Chains
from rectiflow_proteins.flow import FREE_CONTENT, FREE_LABEL
from rectiflow_proteins.secondary import STATES

LETTERS = {"C": 0, "H": 1, "E": 2, "X": FREE_LABEL}
SHORTEST, LONGEST = 4, 1024


def spread_conditions(chains: Chains, count: int, size: int, generator: torch.Generator) -> Cond:
    """Lengths with the secondary structure content that goes with them, as often as among the chains, in random order.

    Each chain stands for its length and content at most once more than any other, and the chains that do are evenly spread over
    the range of helix content (systematic sampling), so that a few have the mean content of all. `size` is the padded length.
    """
    mixed = torch.randperm(len(chains), generator=generator)
    content = shares_of(chains)
    ranked = mixed[content[mixed, 0].argsort(stable=True)]
    start = torch.rand((), generator=generator, dtype=torch.float64)
    places = ((torch.arange(count) + start) * (len(chains) / count)).long().clamp(max=len(chains) - 1)
    order = ranked[places][torch.randperm(count, generator=generator)]
    return conditions(chains.lengths[order], content[order], size)


def shares_of(chains: Chains) -> Tensor:
    """Shares of helix and strand (C, 2) among the residues of each chain."""
    owner = torch.repeat_interleave(torch.arange(len(chains)), chains.lengths)
    counts = [
        torch.zeros(len(chains)).index_add(0, owner, (chains.structure == STATES.index(name)).float())
        for name in ("helix", "strand")
    ]
    return torch.stack(counts, 1) / chains.lengths[:, None]


def conditions(lengths: Tensor, content: Tensor, size: int) -> Cond:
    """Masks (B, size), contents (B, 2) and free labels (B, size) of chains of these lengths (B,)."""
    mask = torch.arange(size) < lengths[:, None]
    return {"mask": mask, "content": content, "labels": torch.full(mask.shape, FREE_LABEL)}


def requested(cond: Cond, told: Sequence[str], request: dict[str, Any]) -> Cond:
    """Conditions as asked for: what is not asked for stays as in `cond`, but content follows labels and shares asked for.

    Raises:
        ConfigError: an unknown name, a value out of range, or something this network was not trained with.
    """
    cond = dict(cond)
    count = len(cond["mask"])
    if "labels" in request:
        _need("labels", told)
        labels = _labels(request["labels"])
        mask = torch.ones(1, labels.shape[1], dtype=torch.bool)
        content = content_of(labels, mask) if bool((labels != FREE_LABEL).all()) else torch.full((1, 2), FREE_CONTENT)
        return {
            "mask": mask.expand(count, -1).clone(),
            "content": content.expand(count, -1).clone(),
            "labels": labels.expand(count, -1).clone(),
        }
    if "length" in request:
        lengths = _lengths(request["length"], count)
        cond = conditions(lengths, cond["content"], int(lengths.max()))
    if "helix" in request or "strand" in request:
        _need("content", told)
        helix, strand = (_share(name, request.get(name, 0.0)) for name in ("helix", "strand"))
        if helix + strand > 1:
            raise ConfigError(f"cond.helix={helix} and cond.strand={strand} add up to more than 1")
        cond["content"] = torch.tensor([[helix, strand]]).expand(count, 2).clone()
    return cond


def _need(name: str, told: Sequence[str]) -> None:
    if name not in told:
        raise ConfigError(
            f"this run was trained with model.told={list(told)}, without {name}; train with model.told=[…,{name}] to ask for it"
        )


def _labels(text: Any) -> Tensor:
    letters = str(text).upper()
    if not set(letters) <= set(LETTERS) or not SHORTEST <= len(letters) <= LONGEST:
        raise ConfigError(
            f"cond.labels={text} is not allowed: {SHORTEST} to {LONGEST} letters, H helix, E strand, C coil, X free"
        )
    return torch.tensor([[LETTERS[letter] for letter in letters]])


def _lengths(value: Any, count: int) -> Tensor:
    wanted = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for length in wanted:
        if not isinstance(length, int) or isinstance(length, bool) or not SHORTEST <= length <= LONGEST:
            raise ConfigError(f"cond.length={value} is not allowed: integers from {SHORTEST} to {LONGEST}")
    if not wanted:
        raise ConfigError("cond.length is an empty list; give one length or more")
    return torch.tensor(wanted)[torch.arange(count) % len(wanted)]


def _share(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ConfigError(f"cond.{name}={value} is not allowed: a share of the residues from 0 to 1")
    return float(value)
