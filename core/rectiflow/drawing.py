"""Samples of a domain, drawn on the processor's generator and solved on any device: same seed, same sources, any batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size, map_state
from rectiflow.conditions import take
from rectiflow.control.guidance import Guidance
from rectiflow.domain import Domain
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import ADAPTIVE

TOLERANCES = ("rtol", "atol", "max_nfe")
"""What adaptive methods take in place of a number of steps."""


@dataclass(frozen=True)
class Drawn:
    """Samples on the CPU, what they were asked to be, and what they cost.

    Attributes:
        x: (count, ...) samples.
        cond: their conditions.
        nfe: network evaluations per sample; the mean over batches for an adaptive method.
        seconds: wall time of the solves.
    """

    x: Any
    cond: Cond
    nfe: float
    seconds: float


def draw_sources(domain: Domain, flow: Flow, cond: Cond, count: int, generator: torch.Generator) -> State:
    """Sources (count, ...) for these conditions, drawn on the CPU."""
    source: State = flow.sample_source(domain.sample_shape(count, cond), cond, generator)
    return source


def carry(
    flow: Flow,
    x0: State,
    cond: Cond,
    *,
    method: str,
    steps: int,
    shift: float = 1.0,
    guidance: float = 1.0,
    batch: int = 500,
    device: torch.device | str = "cpu",
    seed: int = 0,
    tolerances: Mapping[str, Any] | None = None,
    times: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Drawn:
    """Carry sources (count, ...) to data, `batch` at a time.

    `steps` is unused by an adaptive method, for which `tolerances` may hold rtol, atol and max_nfe, and with `times`, a grid of
    one's own. `seed` is for the noise of stochastic methods,
    which they draw on the device, batch after batch.

    Raises:
        ConfigError: see `integrate`.
        NonFiniteError: a sample is NaN or infinite.
    """
    count = batch_size(x0)
    generator = torch.Generator(device).manual_seed(seed)
    chunks, spent, started = [], 0, time.perf_counter()
    for rows in torch.split(torch.arange(count), batch):
        solution = integrate(
            flow,
            move(map_state(lambda part, rows=rows: part[rows], x0), device),
            steps=None if method in ADAPTIVE or times is not None else steps,
            times=times,
            method=method,
            shift=shift,
            generator=generator,
            cond=move(take(cond, rows), device),
            guidance=Guidance(float(guidance)),
            **(tolerances or {}),
        )
        chunks.append(move(solution.x, "cpu"))
        spent += solution.nfe * len(rows)
        if progress is not None:
            progress(len(rows))
    seconds = time.perf_counter() - started
    return Drawn(map_state(lambda *pieces: torch.cat(pieces), *chunks), cond, spent / count, seconds)


def tolerances(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of rtol, atol and max_nfe that a verb's settings give, for `carry`."""
    return {name: config[name] for name in TOLERANCES if config.get(name) is not None}


def move(state: Any, device: torch.device | str) -> Any:
    """A state or a dict of conditions on another device."""
    return map_state(lambda part: part.to(device), state)
