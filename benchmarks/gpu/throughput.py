"""Each domain's network on a GPU: training and sampling throughput in float32, bfloat16 and compiled, FLOP use, memory, overhead.

    python benchmarks/gpu/throughput.py [--domains images,audio] [--batch 64] [--seconds 3] [--json gpu.json]
    python benchmarks/gpu/throughput.py --device cpu --quick          tries the code without a GPU

Networks have fresh weights; conditions are the domain's own, data are drawn from the flow's source, since what stands in a batch
does not change what it costs. FLOPs are counted by torch from the operations of one call; model FLOP use is their rate over the
fastest matrix product that this device makes here in the same precision. Solver overhead is what `integrate` adds to a step of a
loop written by hand around the same network. Exit status 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rectiflow.batch import Batch, Cond, State
from rectiflow.config import compose_training
from rectiflow.domain import Domain, build, installed, load_spec
from rectiflow.drawing import draw_sources, move
from rectiflow.errors import RectiflowError
from rectiflow.flow import Flow
from rectiflow.matching import FlowMatching
from rectiflow.records import machine_info
from rectiflow.sampling import integrate
from rectiflow.trained import new_network

STEPS = 20
SIZES = {"cuda": (4096, 8192, 12288), "cpu": (512, 1024)}
MODES = ("float32", "bfloat16", "bfloat16 compiled")


@dataclass(frozen=True)
class Row:
    """One network in one mode; rates are a second, `use` is a share of the measured matrix rate."""

    domain: str
    mode: str
    parameters: int
    batch: int
    training_samples: float
    training_use: float
    sampling_samples: float
    sampling_use: float
    memory_mib: float
    overhead_us: float
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """Where and how long is measured."""

    device: torch.device
    seconds: float

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds_of(self, call: Callable[[], object]) -> float:
        """Median elapsed seconds of a call, after two that warm up, over at least three."""
        for _ in range(2):
            call()
        self.wait()
        taken: list[float] = []
        while len(taken) < 3 or sum(taken) < self.seconds:
            started = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def matrix_rate(self, dtype: torch.dtype) -> float:
        """FLOPs a second of the fastest square matrix product; float32 as the loop trains, without TF32."""
        best = 0.0
        for size in SIZES[self.device.type]:
            a = torch.randn(size, size, device=self.device, dtype=dtype)
            best = max(best, 2 * size**3 / self.seconds_of(lambda a=a: a @ a))  # type: ignore[misc]
        return best

    def peak_memory(self, call: Callable[[], object]) -> float:
        """Peak memory of a call in MiB; 0 where the device does not count."""
        if self.device.type != "cuda":
            return 0.0
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) / 2**20


@contextmanager
def precision(mode: str, device: torch.device) -> Iterator[None]:
    """Automatic mixed precision for the bfloat16 modes, as the training loop has it."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mode != "float32"):
        yield


@dataclass
class Subject:
    """A domain's network with one batch of what it takes."""

    domain: Domain
    network: nn.Module
    x0: State
    x1: State
    cond: Cond

    def flow(self, network: Callable[..., Any]) -> Flow:
        """The network as the domain reads it."""
        return self.domain.flow(network)


def subject_of(name: str, batch: int, device: torch.device) -> Subject:
    """The network of a domain's default recipe, with fresh weights, and one batch.

    Raises:
        RectiflowError: the domain's packages or data are not there.
    """
    spec = load_spec(name)
    domain = build(spec, compose_training(spec, []))
    network = new_network(domain, 0).to(device)
    generator = torch.Generator().manual_seed(0)
    cond = domain.conditions(batch, generator)
    flow = domain.flow(network)
    x0, x1 = (draw_sources(domain, flow, cond, batch, generator) for _ in range(2))
    return Subject(domain, network, move(x0, device), move(x1, device), move(cond, device))


def measure(bench: Bench, name: str, mode: str, batch: int, rate: float) -> Row:
    """One row of the table."""
    torch.compiler.reset()
    subject = subject_of(name, batch, bench.device)
    network = subject.network
    called = torch.compile(network) if mode.endswith("compiled") else network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    train = trainer(bench, subject, called, mode)
    plain = trainer(bench, subject, network, mode)
    training_flops = flops_of(plain)
    memory = bench.peak_memory(train)
    training_seconds = bench.seconds_of(train)
    network.eval().requires_grad_(False)
    flow = subject.flow(called)

    def sample() -> State:
        with precision(mode, bench.device):
            end: State = integrate(flow, subject.x0, steps=STEPS, cond=subject.cond).x
        return end

    evaluation_flops = flops_of(lambda: evaluate(subject, subject.flow(network), mode, bench.device))
    sampling_seconds = bench.seconds_of(sample)
    return Row(
        name,
        mode,
        parameters,
        batch,
        batch / training_seconds,
        training_flops / training_seconds / rate,
        batch / sampling_seconds,
        STEPS * evaluation_flops / sampling_seconds / rate,
        memory,
        overhead(bench),
    )


def trainer(bench: Bench, subject: Subject, network: Callable[..., Any], mode: str) -> Callable[[], object]:
    """One update: loss of flow matching, backward pass, AdamW."""
    optimizer = torch.optim.AdamW(subject.network.parameters(), lr=1e-6, fused=True)
    method, flow = FlowMatching(), subject.flow(network)
    batch = Batch(subject.x1, cond=subject.cond, mask=subject.domain.mask(subject.cond))
    generator = torch.Generator(bench.device).manual_seed(0)

    def update() -> Tensor:
        with precision(mode, bench.device):
            loss, _ = method.loss(flow, batch, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return update


def evaluate(subject: Subject, flow: Flow, mode: str, device: torch.device) -> None:
    """One evaluation of the network, by one step of Euler's method."""
    with precision(mode, device):
        integrate(flow, subject.x0, steps=1, cond=subject.cond)


def flops_of(call: Callable[[], object]) -> float:
    """Floating-point operations of a call, of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def overhead(bench: Bench) -> float:
    """Microseconds that `integrate` adds to a step, over a loop written by hand, around one small matrix."""
    layer = nn.Linear(64, 64, device=bench.device).requires_grad_(False)
    x0 = torch.randn(16, 64, device=bench.device)
    rows = [torch.full((16,), i / STEPS, device=bench.device) for i in range(STEPS)]
    flow = Flow(lambda x, t: layer(x) + t[:, None])

    def bare() -> Tensor:
        x = x0
        for t in rows:
            x = torch.add(x, layer(x) + t[:, None], alpha=1 / STEPS)
        return x

    return 1e6 / STEPS * (bench.seconds_of(lambda: integrate(flow, x0, steps=STEPS)) - bench.seconds_of(bare))


def table(rows: list[Row]) -> str:
    """The rows as text; what could not be measured is a sentence."""
    head = ["domain", "mode", "M params", "batch", "train/s", "use", "sample/s", "use", "MiB", "overhead us"]
    cells = [head] + [
        [
            row.domain,
            row.mode,
            f"{row.parameters / 1e6:.2f}",
            f"{row.batch}",
            f"{row.training_samples:,.0f}",
            f"{row.training_use:.1%}",
            f"{row.sampling_samples:,.0f}",
            f"{row.sampling_use:.1%}",
            f"{row.memory_mib:,.0f}",
            f"{row.overhead_us:.1f}",
        ]
        for row in rows
        if not row.note
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]), *padded]))
    return "\n".join([*lines, *(f"{row.domain}, {row.mode}: {row.note}" for row in rows if row.note)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--domains", default="", help="comma-separated; all installed ones by default")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="batch 2, short timings, nothing compiled: a test of the code"
    )
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False; try the code with --device cpu --quick", file=sys.stderr)
        return 2
    unknown = set(filter(None, options.domains.split(","))) - set(installed())
    if unknown or options.batch < 1 or not options.seconds > 0:
        print(
            f"domains {sorted(unknown) or 'fine'}; allowed: {', '.join(installed())}; batch and seconds above 0",
            file=sys.stderr,
        )
        return 2  # fmt: skip
    bench = Bench(torch.device(options.device), 0.02 if options.quick else options.seconds)
    batch, modes = (2, MODES[:2]) if options.quick else (options.batch, MODES)
    rates = {mode: bench.matrix_rate(torch.float32 if mode == "float32" else torch.bfloat16) for mode in modes}
    rows = []
    for name in filter(None, options.domains.split(",") if options.domains else installed()):
        for mode in modes:
            print(f"{name}, {mode} …", file=sys.stderr, flush=True)
            try:
                rows.append(measure(bench, name, mode, batch, rates[mode]))
            except (RectiflowError, torch.cuda.OutOfMemoryError) as error:
                rows.append(Row(name, mode, 0, batch, 0, 0, 0, 0, 0, 0, note=" ".join(str(error).split())[:200]))
    record = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "command": " ".join(sys.argv),
        "machine": machine_info(),
        "matrix_tflops": {mode: rate / 1e12 for mode, rate in rates.items()},
        "rows": [asdict(row) for row in rows],
    }
    options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for mode, rate in rates.items():
        print(f"matrix products, {mode}: {rate / 1e12:.2f} TFLOP/s")
    print(table(rows))
    return 0 if any(not row.note for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
