"""Training in several processes: its bits, its samples a second, and what an all-reduce costs. `python -m` this module."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.benchmarking.peers.training import ResidualNetwork, bare_loss
from rectiflow.errors import RectiflowError
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions

WIDTH, DEPTH, STATE = 512, 4, 64
SAMPLES = 4096
REDUCED = tuple(1 << power for power in range(10, 22, 2))
"""Numbers that the timed all-reduces add up."""


@dataclass
class StoredDraws:
    """Flow matching whose noise and times come with the data, so that any split of a batch sees the same numbers."""

    network: nn.Module
    begun: list[float] = field(default_factory=list)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch."""
        self.begun.append(time.perf_counter())
        x0, x1, t = batch.x1.split([STATE, STATE, 1], 1)  # type: ignore[union-attr]  # a tensor, see `Draws`
        return bare_loss(network, x0, x1, t[:, 0]), {}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Nothing."""
        return {}


class Draws:
    """Rows of noise, data and time."""

    def __init__(self, generator: torch.Generator) -> None:
        normal = torch.randn(SAMPLES, 2 * STATE, generator=generator)
        self.rows = torch.cat([normal, torch.rand(SAMPLES, 1, generator=generator)], 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(self.rows[indices])


def train(devices: int, batch: int, accumulate: int, steps: int) -> dict[str, float | str]:
    """What a training of a fresh process, or of several, comes to: see `figures`.

    Raises:
        RectiflowError: a process failed; the message is its last line.
    """
    command = [sys.executable, "-m", __name__, *map(str, (devices, batch, accumulate, steps))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # noqa: S603  (our own program)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RectiflowError(f"training in {devices} processes failed: {reason}")
    found: dict[str, float | str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def figures(devices: int, batch: int, accumulate: int, steps: int) -> dict[str, float | str]:
    """Hash of the weights, seconds of an update, samples a second of all processes, seconds of all-reduces by numbers added."""
    generator = torch.Generator().manual_seed(0)
    task = StoredDraws(ResidualNetwork(WIDTH, DEPTH, generator, state=STATE))
    options = TrainingOptions(
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        devices=devices,
        accelerator="cpu",
        warmup=1,
        learning_rate=1e-3,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        fitted = fit(task, Draws(generator), options)
    begun = task.begun[::accumulate]
    update = statistics.median(later - earlier for earlier, later in itertools.pairwise(begun[1:]))
    weights = b"".join(value.contiguous().numpy().tobytes() for value in fitted.network.state_dict().values())
    found: dict[str, float | str] = {
        "hash": hashlib.sha256(weights).hexdigest(),
        "rank": float(fitted.rank),
        "update_seconds": update,
        "samples_per_second": batch * accumulate * devices / update,
        "parameters": float(sum(value.numel() for value in fitted.network.state_dict().values())),
    }
    if devices > 1:
        hashes: list[str | None] = [None] * devices
        torch.distributed.all_gather_object(hashes, found["hash"])
        found["ranks_agree"] = float(len(set(hashes)) == 1)
        found |= {f"reduce_{count}": _reduce_seconds(count) for count in REDUCED}
    return found


def _reduce_seconds(count: int) -> float:
    values, taken = torch.ones(count), []
    for _ in range(12):
        torch.distributed.barrier()
        started = time.perf_counter()
        torch.distributed.all_reduce(values)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = figures(*map(int, sys.argv[1:5]))
    if result["rank"] == 0:
        print(json.dumps(result))
