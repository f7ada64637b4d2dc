"""Students of a separation flow, from the command line: rectified, in one step, and of averages over steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectiflow.cli import main
from rectiflow.records import read_metrics

SMALL = ["model=tiny", "model.widths=[16,32]", "data.pool=2", "data.held_out=4", "data.seconds=0.25"]
BRIEF = ["training.steps=2", "training.batch=2", "training.warmup=1", "training.precision=32-true"]
PAIRS = ["pairs.count=4", "pairs.steps=2", "pairs.batch=2"]


def test_students_are_trained_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    quiet = [*BRIEF, "training.tensorboard=false"]
    assert main(["train", "audio", *SMALL, *quiet]) == 0
    base = "run=runs/audio/base"
    assert main(["distill", "audio", base, "name=once", "method=one_step", *PAIRS, *quiet]) == 0
    assert main(["distill", "audio", base, "name=average", "method=mean_flow", *quiet]) == 0
    for name, sampler in (("once", "euler-1"), ("average", "jump-1")):
        run = f"runs/audio/{name}"
        assert main(["evaluate", "audio", f"run={run}", f"samplers=[{sampler}]", "count=4", "paths=1"]) == 0
        method, steps = sampler.split("-")
        assert f"si_sdri.{method}.nfe_{steps}" in read_metrics(Path(run))
