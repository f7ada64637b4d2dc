"""What the pair store adds to generation and to training: 100 000 pairs of 3x32x32, written whole and read at random.

Writing is compared with the solves that make the pairs, reading a batch with the training step that uses it; the two of a
comparison alternate, so that a busy machine slows both. Reading is measured twice: with the files forgotten by the page cache
first, then as it goes.

    python benchmarks/pair_store.py [--count 100000] [--threads 1] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from rectiflow.drawing import carry
from rectiflow.flow import Flow
from rectiflow.rectify.pairs import PairLayout, PairStore
from rectiflow.rectify.writing import PairWriter
from rectiflow.training.batches import order_of
from rectiflow_images.unet import UNet

SHAPE = (3, 32, 32)
SHARD = 1000
SOLVE, STEPS, METHOD = 32, 12, "midpoint"
BATCH = 128


def network() -> UNet:
    """The images domain's default network, its last layer moved off zero."""
    generator = torch.Generator().manual_seed(0)
    made = UNet(3, 32, width=32, generator=generator)
    with torch.no_grad():
        made.output.weight.normal_(0, 0.02, generator=generator)
    return made


def write(folder: Path, count: int, flow: Flow, solves: int) -> dict[str, float]:
    """Write a whole store; between its shards, `solves` batches of pairs are solved. Seconds a pair of each."""
    layout = PairLayout(count=count, shard_size=SHARD, dtype="float32", shape=SHAPE)
    writing, solving = 0.0, []
    every = max(1, layout.shards // solves)
    with PairWriter(folder, layout) as writer:
        for shard in writer.missing():
            generator = torch.Generator().manual_seed(shard)
            x0, x1 = torch.randn(2, layout.rows(shard), *SHAPE, generator=generator)
            began = time.perf_counter()
            writer.write(shard, x0, x1, {})
            writing += time.perf_counter() - began
            if shard % every == 0:
                solving.append(carry(flow, x0[:SOLVE], {}, method=METHOD, steps=STEPS, batch=SOLVE).seconds / SOLVE)
    return {"write_seconds": writing, "write": writing / count, "solve": statistics.median(solving)}


def forget(folder: Path) -> None:
    """Ask the system to drop the files from its page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder: Path, model: UNet, batches: int) -> tuple[list[float], list[float]]:
    """Seconds of reading a batch and of the training step on it, alternating."""
    store = PairStore(folder)
    order = order_of(store, BATCH, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    flow = Flow(model)
    reading, training = [], []
    for number in range(batches):
        began = time.perf_counter()
        batch = store.rows(order.indices(number))
        middle = time.perf_counter()
        flow.loss(batch.x1, x0=batch.x0, generator=generator).backward()
        optimiser.step()
        optimiser.zero_grad()
        reading.append(middle - began)
        training.append(time.perf_counter() - middle)
    return reading, training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--solves", type=int, default=5, help="batches of pairs that are solved for comparison")
    parser.add_argument("--batches", type=int, default=8, help="training steps for comparison")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = network()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        figures = write(folder, options.count, Flow(model), options.solves)
        figures["megabytes"] = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
        forget(folder)
        reading, training = read(folder, model, options.batches)
        figures["read_cold"] = statistics.median(reading)
        again, more = read(folder, model, options.batches)
        figures["read"] = statistics.median(again)
        figures["step"] = statistics.median(training + more)
    figures["writing_adds"] = figures["write"] / figures["solve"]
    figures["reading_adds_cold"] = figures["read_cold"] / figures["step"]
    figures["reading_adds"] = figures["read"] / figures["step"]
    print(
        f"{options.count} pairs of {SHAPE}, {figures['megabytes']:.0f} MB, written in {figures['write_seconds']:.1f} s"
    )
    solved = f"{METHOD}, {STEPS} steps: {1e3 * figures['solve']:.1f} ms a pair"
    print(f"writing {1e3 * figures['write']:.3f} ms a pair; solving ({solved}): +{figures['writing_adds']:.2%}")
    print(
        f"reading {BATCH} at random {1e3 * figures['read_cold']:.1f} ms, then {1e3 * figures['read']:.1f} ms; a training step "
        f"{1e3 * figures['step']:.0f} ms: +{figures['reading_adds_cold']:.2%}, +{figures['reading_adds']:.2%}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
