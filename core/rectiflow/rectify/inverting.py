"""Pairs from real data: each sample is carried back to the noise that the flow would make it from (arXiv 2405.20320)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import State, map_state, shape_of
from rectiflow.drawing import move
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.nn.modes import evaluating
from rectiflow.rectify.generate import condition_kinds, counted, fingerprint
from rectiflow.rectify.pairs import PairLayout, PairStore
from rectiflow.rectify.writing import PairWriter
from rectiflow.sampling import invert
from rectiflow.training.batches import Dataset


def invert_pairs(
    flow: Flow,
    folder: Path | str,
    data: Dataset,
    *,
    steps: int,
    method: str = "fireflow",
    count: int | None = None,
    batch: int = 250,
    shard_size: int = 1000,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PairStore:
    """Carry data back to noise, without guidance, and store the pairs; a store that was begun alike is finished.

    Such pairs end at real data, which a student trained on samples alone never sees; give them a share beside those in a
    `Mixture`.

    Args:
        flow: the teacher.
        folder: of the store.
        data: samples with their conditions; read by index, from the first.
        steps: solver steps a sample.
        method: a solver's name, see `invert`.
        count: number of pairs; all of the data by default.
        batch: samples a solve.
        shard_size: pairs a file.
        dtype: of the stored states: float16, float32 or float64.
        device: to solve on.
        provenance: facts to keep with the pairs; plain types.
        progress: called with the number of pairs made, those found included.

    Raises:
        ConfigError: a number or name that is not allowed, more pairs than data, or the folder holds pairs of other settings.
        DataError: a shard in the folder is truncated or altered, or states do not fit the dtype.
        NonFiniteError: the flow gave NaN or infinity.
        StorageError: a file could not be written.
    """
    count = len(data) if count is None else count
    if not 1 <= count <= len(data):
        raise ConfigError(f"inversion of {count} of {len(data)} samples; allowed: 1 to {len(data)}")
    if batch < 1:
        raise ConfigError(f"batch of inversion is {batch}; it must be at least 1")
    first = data.__getitems__([0])
    layout = PairLayout(
        count=count,
        shard_size=shard_size,
        dtype=dtype,
        shape=_of_one(first.x1),
        cond=condition_kinds(first.cond),
        settings={"inverted": True, "method": method, "steps": steps, "teacher": fingerprint(flow)},
        provenance=dict(provenance or {}),
    )
    working = torch.float64 if dtype == "float64" else torch.float32
    with PairWriter(folder, layout) as writer, evaluating(flow.model):
        missing = writer.missing()
        tick = counted(progress, count - sum(layout.rows(shard) for shard in missing))
        for shard in missing:
            rows = range(shard * shard_size, shard * shard_size + layout.rows(shard))
            found = data.__getitems__(list(rows))
            x1 = map_state(lambda part: part.to(working), found.x1)
            pieces = []
            for some in torch.split(torch.arange(len(rows)), batch):
                part = map_state(lambda value, some=some: value[some].to(device), x1)
                cond = {name: value[some].to(device) for name, value in found.cond.items()}
                pieces.append(move(invert(flow, part, steps=steps, method=method, cond=cond), "cpu"))
                if tick is not None:
                    tick(len(some))
            writer.write(shard, map_state(_joined, *pieces), x1, found.cond)
        return writer.finish()


def _joined(*pieces: Tensor) -> Tensor:
    return torch.cat(pieces)


def _of_one(state: State) -> Any:
    shape = shape_of(state)
    return {name: part[1:] for name, part in shape.items()} if isinstance(shape, dict) else shape[1:]
