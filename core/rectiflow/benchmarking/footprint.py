"""What sampling or training takes in a fresh process: peak memory, and updates a second. `python -m` this module."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from rectiflow.domain import load_spec
from rectiflow.errors import RectiflowError

WARM_UP = 2
SECONDS = 4.0
"""Training is timed for about so long."""


def footprint(kind: str, domain: str, run: Path) -> dict[str, float]:
    """Figures of a child process that does one thing, `sampling` or `training`, with a run.

    Raises:
        RectiflowError: the child failed; the message is its last line.
    """
    command = [sys.executable, "-m", __name__, kind, domain, str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # noqa: S603  (our own program)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RectiflowError(f"{kind} of {run} failed in a process of its own: {reason}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def sampling(domain: str, run: Path) -> dict[str, float]:
    """Memory of drawing one batch with two evaluations each."""
    before = _peak()
    from rectiflow.benchmarking.subject import open_subject
    from rectiflow.drawing import carry

    imported = _peak()
    subject = open_subject(load_spec(domain), "", run, 0, 0)
    carry(subject.flow, subject.x0, subject.cond, **subject.how(), method="euler", steps=2)
    return {"peak_mb": _peak(), "imports_mb": imported, "python_mb": before}


def training(domain: str, run: Path) -> dict[str, float]:
    """Updates a second of the run's own training, each whole: batch, loss, gradients, clipping, average."""
    from dataclasses import replace

    from omegaconf import OmegaConf

    from rectiflow.domain import build
    from rectiflow.runs import read_config
    from rectiflow.training.loop import fit
    from rectiflow.training.options import TrainingOptions
    from rectiflow.verbs.train import flow_stage

    config = read_config(run)
    stored = TrainingOptions(**OmegaConf.to_container(config.training))  # type: ignore[arg-type]
    spec = load_spec(domain)
    task, dataset = flow_stage(build(spec, config), config, 0)
    options = replace(stored, steps=WARM_UP, preview_every=0, tensorboard=False)
    clocks = [(time.perf_counter(), time.process_time())]
    fit(task, dataset, options)
    clocks.append((time.perf_counter(), time.process_time()))
    steps = min(200, max(3, round(SECONDS * WARM_UP / (clocks[1][0] - clocks[0][0]))))
    fit(task, dataset, replace(options, steps=steps))
    clocks.append((time.perf_counter(), time.process_time()))
    return {
        "updates_per_second": steps / (clocks[2][0] - clocks[1][0]),
        "update_ms": 1000 * (clocks[2][1] - clocks[1][1]) / steps,
        "batch": float(stored.batch * stored.accumulate),
        "peak_mb": _peak(),
    }


def _peak() -> float:
    """Largest resident memory of this program so far, in megabytes.

    What `getrusage` says begins with that of the process which started this one, so that of the memory map is taken where
    there is one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        unit = 1e-6 if sys.platform == "darwin" else 1.024e-3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(1.024e-3 * float(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main(arguments: list[str]) -> int:
    """Do one thing and print its figures as the last line."""
    kind, domain, run = arguments
    with contextlib.redirect_stdout(sys.stderr):
        found = {"sampling": sampling, "training": training}[kind](domain, Path(run))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RectiflowError as error:
        sys.exit(str(error))
