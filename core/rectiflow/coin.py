"""A coin that the host tosses and a device's generator decides."""

from __future__ import annotations

import hashlib

import torch


def coin(generator: torch.Generator | None, device: torch.device) -> bool:
    """Heads, with probability 1/2.

    Reading a draw back from an accelerator would wait for all that it has been given to do. Its generator's state (seed and
    offset) is on the host, so there the state behind the draw decides, by SHA-256.
    """
    toss = torch.rand((), generator=generator, device=device)  # moves the generator on, whoever decides
    if generator is None or device.type == "cpu":
        return bool(toss < 0.5)
    return hashlib.sha256(generator.get_state().numpy().tobytes()).digest()[0] < 128
