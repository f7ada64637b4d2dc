"""Making pairs: a flow carries sources to samples, and both are kept (arXiv 2209.03003, algorithm 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.batch import Cond, Shape
from rectiflow.drawing import carry
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.nn.modes import evaluating
from rectiflow.rectify.pairs import PairLayout, PairStore
from rectiflow.rectify.shards import raw_bytes
from rectiflow.rectify.writing import PairWriter
from rectiflow.solvers.catalogue import check_options
from rectiflow.spaces.product import Product
from rectiflow.times import time_grid
from rectiflow.training.randomness import stream_seed

Conditions = Callable[[int, torch.Generator], Cond]


def generate_pairs(
    flow: Flow,
    folder: Path | str,
    *,
    count: int,
    shape: Shape,
    steps: int,
    seed: int,
    conditions: Conditions | None = None,
    method: str = "euler",
    shift: float = 1.0,
    guidance: float = 1.0,
    tolerances: Mapping[str, Any] | None = None,
    batch: int = 250,
    shard_size: int = 1000,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PairStore:
    """Draw sources, carry them to data, and store the pairs; a store that was begun with the same arguments is finished.

    Sources and conditions are a function of (seed, shard) drawn on the CPU, whatever the batch, the device and the
    interruptions. Solves run in float32, or float64 for a float64 store. A teacher in training mode is evaluated as in
    evaluation mode.

    Args:
        flow: the teacher.
        folder: of the store.
        count: number of pairs.
        shape: of one state, without a batch axis.
        steps: solver steps a sample; unused by an adaptive method.
        seed: names the streams of sources and conditions.
        conditions: (n, generator) -> name -> (n, ...); None for a flow without.
        method: a solver's name.
        shift: time shift of the solver's grid.
        guidance: scale of classifier-free guidance, which the pairs then hold.
        tolerances: rtol, atol and max_nfe of a method that takes them.
        batch: samples a solve.
        shard_size: pairs a file, and the most that a kill can cost.
        dtype: of the stored states: float16, float32 or float64.
        device: to solve on.
        provenance: facts to keep with the pairs; plain types.
        progress: called with the number of pairs made, those found included.

    Raises:
        ConfigError: a number or name that is not allowed, or the folder holds pairs of other settings, which it names.
        DataError: a shard in the folder is truncated or altered, or samples do not fit the dtype.
        NonFiniteError: the flow gave NaN or infinity.
        StorageError: a file could not be written.
    """
    if batch < 1:
        raise ConfigError(f"batch of pair generation is {batch}; it must be at least 1")
    check_options(method, tolerances or {})
    time_grid(steps, shift)
    sampler: dict[str, Any] = {"method": method, "steps": steps, "shift": float(shift), "guidance": float(guidance)}
    sampler |= tolerances or {}
    if isinstance(flow.space, Product) and flow.space.schedules:
        sampler["schedules"] = repr(flow.space.schedules)
    layout = PairLayout(
        count=count,
        shard_size=shard_size,
        dtype=dtype,
        shape=shape,
        settings={**sampler, "seed": seed, "teacher": fingerprint(flow)},
        provenance=dict(provenance or {}),
    )
    layout = replace(layout, cond=condition_kinds(_conditions(layout, conditions, 0)[0]))
    working = torch.float64 if dtype == "float64" else torch.float32
    with PairWriter(folder, layout) as writer, evaluating(flow.model):
        missing = writer.missing()
        tick = counted(progress, count - sum(layout.rows(shard) for shard in missing))
        for shard in missing:
            cond, generator = _conditions(layout, conditions, shard)
            x0 = flow.sample_source(_batched(shape, layout.rows(shard)), cond, generator, dtype=working)
            drawn = carry(
                flow,
                x0,
                cond,
                method=method,
                steps=steps,
                shift=shift,
                guidance=guidance,
                tolerances=tolerances,
                batch=batch,
                device=device,
                progress=tick,
            )
            writer.write(shard, x0, drawn.x, cond)
        return writer.finish()


def _conditions(layout: PairLayout, conditions: Conditions | None, shard: int) -> tuple[Cond, torch.Generator]:
    """Conditions of a shard, and its generator, from which the sources are drawn next."""
    generator = torch.Generator().manual_seed(stream_seed(layout.settings["seed"], "pairs", shard))
    size = layout.rows(shard)
    cond = conditions(size, generator) if conditions is not None else {}
    for name, value in cond.items():
        if value.shape[0] != size:
            raise ConfigError(
                f"conditions({size}, generator) gave {value.shape[0]} rows of {name!r}; it must give {size}"
            )
    return cond, generator


def condition_kinds(cond: Cond) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape of one and dtype's name of every condition, as a store's layout has them."""
    return {name: (tuple(value.shape[1:]), str(value.dtype).removeprefix("torch.")) for name, value in cond.items()}


def _batched(shape: Shape, size: int) -> Shape:
    return {name: (size, *part) for name, part in shape.items()} if isinstance(shape, dict) else (size, *shape)


def counted(progress: Callable[[int], None] | None, done: int) -> Callable[[int], None] | None:
    """A callback for pairs just made that reports all pairs made, beginning with those found."""
    if progress is None:
        return None
    total = done
    progress(total)

    def add(made: int) -> None:
        nonlocal total
        total += made
        progress(total)

    return add


def fingerprint(flow: Flow) -> str:
    """What tells one teacher from another: its prediction type, its path and its weights (SHA-256)."""
    digest = hashlib.sha256(f"{flow.predicts} {flow.interpolant!r}".encode())
    if isinstance(flow.model, nn.Module):
        for name, value in sorted(flow.model.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(name.encode())
                digest.update(raw_bytes(value))
    return digest.hexdigest()[:16]
