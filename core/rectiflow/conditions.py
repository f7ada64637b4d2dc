"""Conditions: dicts of tensors with the batch axis first, and the values that mean "no condition"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError

Null = Mapping[str, float | int | Tensor]


def null_like(cond: Cond, null: Null) -> Cond:
    """The conditions with every entry named in `null` replaced by its null value; other entries are kept.

    Args:
        cond: name -> (B, ...).
        null: name -> a number, or a tensor that broadcasts to (B, ...).

    Raises:
        ConfigError: no entry of `cond` has a null value.
    """
    if not set(null) & set(cond):
        raise ConfigError(f"conditions {sorted(cond)} have no null value; the flow defines one for {sorted(null)}")
    return {
        name: torch.as_tensor(null[name], dtype=value.dtype, device=value.device).expand_as(value)
        if name in null
        else value
        for name, value in cond.items()
    }


def drop(cond: Cond, null: Null, probability: float, generator: torch.Generator | None = None) -> Cond:
    """Replace conditions by their null values, sample by sample, each with the given probability.

    One coin a sample decides for all of its entries, so that the unconditional model sees no condition at all.

    Raises:
        ConfigError: probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ConfigError(f"condition drop probability is {probability}; allowed: 0 to 1")
    if probability == 0 or not set(null) & set(cond):
        return cond
    first = cond[next(iter(set(null) & set(cond)))]
    coin = torch.rand(first.shape[0], generator=generator, device=first.device) < probability
    empty = null_like(cond, null)
    return {
        name: torch.where(coin.reshape((-1,) + (1,) * (value.ndim - 1)), empty[name], value)
        for name, value in cond.items()
    }


def concatenate(first: Cond, second: Cond) -> Cond:
    """Two batches of the same conditions, one after the other."""
    return {name: torch.cat([value, second[name]]) for name, value in first.items()}


def take(cond: Cond, index: Tensor) -> Cond:
    """Rows of every condition."""
    return {name: value[index] for name, value in cond.items()}
