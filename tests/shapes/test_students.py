"""Few-step students of shapes, from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rectiflow.cli import main

QUIET = ["training.batch=4", "training.warmup=0", "training.preview_every=0", "training.tensorboard=false"]
SMALL = [
    "data.count=12",
    "data.held=6",
    "model.width=16",
    "model.depth=2",
    "model.heads=2",
    "representation.components=8",
]


def test_students_are_trained_with_the_times_that_their_method_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    few = ["training.steps=2", "training.log_every=1", *QUIET]
    assert main(["train", "shapes", *SMALL, "representation.columns=4", *few]) == 0
    run = "run=runs/shapes/base"
    assert main(["distill", "shapes", run, "name=mdt", "method=marginal_transport", *few]) == 0
    assert main(["distill", "shapes", run, "name=fast", "method=mean_flow", "model.time_scale=50", *few]) == 0
    found = {name: OmegaConf.load(f"runs/shapes/{name}/config.yaml") for name in ("base", "mdt", "fast")}
    assert {name: config.model.time_scale for name, config in found.items()} == {"base": 1000, "mdt": 10, "fast": 50}
    assert found["mdt"].sampling.method == "reinterpolate"
    lines = Path("runs/shapes/mdt/metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
