"""Our backbone network beside the published one at its size: seconds and peak memory of an evaluation, sampler overhead.

Both run in turns, each measurement in a process of its own, so that peak memory is that of one evaluation and a busy machine
slows both alike. The sampler is measured around a network of no cost.

    python benchmarks/protein_network.py [--residues 256] [--repeats 5] [--threads 1] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from published_block import PublishedNetwork
from torch import Tensor

from rectiflow.sampling import integrate
from rectiflow_proteins.flow import backbone_flow
from rectiflow_proteins.network import BackboneNetwork

PAPER = {
    "width": 256,
    "pair_width": 128,
    "blocks": 6,
    "heads": 8,
    "head_width": 128,
    "query_points": 8,
    "value_points": 12,
    "bins": 22,
}
STEPS = 50


def evaluation(name: str, residues: int) -> tuple[Callable[[], object], int]:
    """One forward pass of a network on random frames, and how many parameters it has."""
    draw = torch.Generator().manual_seed(0)
    x = {
        "translations": 10 * torch.randn(1, residues, 3, generator=draw),
        "rotations": torch.nn.functional.normalize(torch.randn(1, residues, 4, generator=draw), dim=-1),
    }
    t, mask = torch.tensor([0.5]), torch.ones(1, residues, dtype=torch.bool)
    if name == "published":
        torch.manual_seed(0)
        network: torch.nn.Module = PublishedNetwork().eval()
        call = lambda: network(x, t, mask, x["translations"])  # noqa: E731
    else:
        network = BackboneNetwork(**PAPER, generator=draw).eval()  # type: ignore[arg-type]
        cond = {"mask": mask, "content": torch.full((1, 2), -1.0), "labels": torch.full((1, residues), 3)}
        call = lambda: network(x, t, **cond, self_condition=x)  # noqa: E731
    return call, sum(parameter.numel() for parameter in network.parameters())


def measure(name: str, residues: int, threads: int) -> dict[str, float]:
    """Seconds of the second evaluation, and how much the process grew in the two beyond what it held before (MiB)."""
    torch.set_num_threads(threads)
    with torch.no_grad():
        small, parameters = evaluation(name, 16)
        small()  # libraries and thread pools are there before memory is read
        call, _ = evaluation(name, residues)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        started = time.perf_counter()
        call()
        seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "mebibytes": grown, "parameters": parameters}


def sampler_seconds(residues: int, threads: int) -> float:
    """Seconds that 50 steps take besides the network: space, conversions, self-conditioning and conditions."""
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(0)
    mask = torch.ones(1, residues, dtype=torch.bool)
    shape = {"translations": (1, residues, 3), "rotations": (1, residues, 4)}

    def still(x: dict[str, Tensor], t: Tensor, **cond: object) -> dict[str, Tensor]:
        return x

    flow = backbone_flow(still)
    x0 = flow.sample_source(shape, {"mask": mask}, draw)
    integrate(flow, x0, steps=STEPS, cond={"mask": mask})
    started = time.perf_counter()
    integrate(flow, x0, steps=STEPS, cond={"mask": mask})
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--residues", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=("published", "ours", "sampler"), help="measure once and print json")
    options = parser.parse_args()
    if options.one == "sampler":
        print(json.dumps({"seconds": sampler_seconds(options.residues, options.threads)}))
        return
    if options.one:
        print(json.dumps(measure(options.one, options.residues, options.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {"published": [], "ours": [], "sampler": []}
    for _ in range(options.repeats):
        for name, results in found.items():
            command = [sys.executable, __file__, "--one", name, "--residues", str(options.residues)]
            command += ["--threads", str(options.threads)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.append(json.loads(printed.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }
    ours, published = medians["ours"], medians["published"]
    for name in ("published", "ours"):
        row = medians[name]
        print(f"{name:10} {row['parameters'] / 1e6:5.1f} M  {row['seconds']:.3f} s  {row['mebibytes']:.0f} MiB")
    print(f"ours is {published['seconds'] / ours['seconds']:.2f} times as fast", end=", ")
    print(f"with {ours['mebibytes'] / published['mebibytes']:.2f} of the memory")
    overhead = medians["sampler"]["seconds"] / (STEPS * ours["seconds"])
    print(f"{STEPS} steps add {medians['sampler']['seconds']:.3f} s to the network's, {overhead:.2%}")
    if options.json:
        options.json.write_text(json.dumps({"residues": options.residues, "median": medians, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
