"""Random streams as a function of counters, and the states of the generators that the loop does not own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, *labels: int | str) -> int:
    """A 63-bit seed for the stream named by the labels; neighbouring labels give unrelated seeds (SHA-256)."""
    name = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def step_generator(seed: int, step: int, micro: int, rank: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one micro-step on one process: a function of its counters, so that resuming needs no state.

    On a CPU torch keeps the low 32 bits of a seed, so two of N steps share a stream with probability N^2 / 2^33.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, "step", step, micro, rank))


def global_states(device: torch.device) -> dict[str, Any]:
    """States, as plain types and tensors, of the process's global generators (torch, CUDA, numpy, python).

    Dropout draws from torch's, and a domain's data may draw from the others'.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002  saved, not drawn from
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss_next],
    }


def restore_global_states(states: dict[str, Any], device: torch.device) -> None:
    """Put back what `global_states` returned."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))


@contextmanager
def isolated_global_states(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Give the global generators back, on leaving, as they were on entering; with `seed`, they start from it.

    Dropout can draw from no other generator, so a run that is to repeat bit for bit has to seed the global one.
    """
    states = global_states(device)
    if seed is not None:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
    try:
        yield
    finally:
        restore_global_states(states, device)
