"""Conditions of many shapes: spread like the data, or as `rectiflow sample shapes cond.kind=… cond.caption=…` asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.errors import ConfigError
from rectiflow_shapes.conditions import FREE, kind_index, words
from rectiflow_shapes.shape_data import ShapeData


def spread_conditions(data: ShapeData, told: Sequence[str], count: int, generator: torch.Generator) -> Cond:
    """Conditions of shapes of the data, each kind as often as any other to within one, in random order."""
    present = torch.unique(data.labels)
    kinds = present[torch.arange(count) % len(present)][torch.randperm(count, generator=generator)]
    rows = torch.empty(count, dtype=torch.long)
    for kind in present:
        own, places = (data.labels == kind).nonzero()[:, 0], (kinds == kind).nonzero()[:, 0]
        rows[places] = own[torch.randint(len(own), (len(places),), generator=generator)]
    return conditions_of(data, told, rows)


def conditions_of(data: ShapeData, told: Sequence[str], rows: Tensor) -> Cond:
    """What a network that is told this much is told of these shapes."""
    cond: Cond = {}
    if "kind" in told:
        cond["kind"] = data.labels[rows]
    if "attributes" in told:
        cond["attributes"] = data.attributes[rows]
    if "caption" in told:
        cond["caption"] = torch.stack([words(data.captions[row]) for row in rows.tolist()])
    return cond


def requested(
    data: ShapeData, told: Sequence[str], count: int, generator: torch.Generator, request: Mapping[str, Any]
) -> Cond:
    """Conditions as asked for by kind, caption and attributes; of what was not asked for, nothing is said.

    Raises:
        ConfigError: an unknown name or value, or something this network is not told.
    """
    for name in request:
        if name not in told:
            raise ConfigError(
                f"cond.{name} was given, but this network is told {', '.join(told) or 'nothing'}; "
                f"train one with model.told=[{name}] or leave it out"
            )
    asked = _alternatives(request.get("kind"))
    numbers = [kind_index(kind, data.kinds) for kind in asked]
    cond: Cond = {}
    if "kind" in told:
        if numbers:
            cond["kind"] = torch.tensor(numbers)[torch.arange(count) % len(numbers)]
        elif set(request) & {"caption", "attributes"}:
            cond["kind"] = torch.full((count,), len(data.kinds))
        else:
            cond["kind"] = spread_conditions(data, ("kind",), count, generator)["kind"]
    if "attributes" in told:
        cond["attributes"] = (
            _attributes(data.attribute_names, request.get("attributes") or {}).expand(count, -1).clone()
        )
    if "caption" in told:
        captions = [words(str(caption)) for caption in _alternatives(request.get("caption"))] or [words("")]
        cond["caption"] = torch.stack(captions)[torch.arange(count) % len(captions)]
    return cond


def null_conditions(data: ShapeData, told: Sequence[str]) -> dict[str, float | int]:
    """What stands in each condition that is not given."""
    nothing: dict[str, float | int] = {"kind": len(data.kinds), "attributes": FREE, "caption": 0}
    return {name: nothing[name] for name in told}


def _alternatives(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _attributes(names: Sequence[str], asked: Any) -> Tensor:
    if not isinstance(asked, Mapping):
        raise ConfigError(
            f"cond.attributes={asked} is not allowed; give them by name, such as cond.attributes.height=0.5"
        )
    row = torch.full((1, len(names)), FREE)
    for name, value in asked.items():
        if name not in names:
            raise ConfigError(f"cond.attributes.{name} is unknown; allowed: {', '.join(names)}")
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"cond.attributes.{name}={value} is not allowed; it is a place in its range, in [0, 1]")
        row[0, names.index(name)] = float(value)
    return row
