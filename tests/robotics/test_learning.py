"""A cloned policy that succeeds about half of the time becomes one that nearly always does, by acting."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import load_spec
from rectiflow.verbs import train
from rectiflow_robotics.finetune_settings import FinetuneSettings
from rectiflow_robotics.finetuning import run as finetune

SETTINGS = ["noise.low=0.3", "noise.high=0.5", "envs=64", "chunks=20", "evaluate_every=10"]


@pytest.mark.slow
def test_point_reach_from_half_to_nearly_always(tmp_path: Path) -> None:
    spec = load_spec("robotics")
    place = f"out='{tmp_path}'"
    cloning = [place, "recipe=point_reach", "data.episodes=20", "training.steps=1000", "training.tensorboard=false"]
    cloned = train.run(spec, compose_training(spec, [*cloning, "training.preview_every=0"]))
    started = time.process_time()
    settings = [f"run='{cloned}'", place, "iterations=30", *SETTINGS]
    folder = finetune(spec, compose_verb(FinetuneSettings, {}, settings))
    seconds = time.process_time() - started
    figures = json.loads((folder / "metrics.json").read_text())
    assert 0.4 <= figures["success.before"] <= 0.65
    assert figures["success.after"] >= 0.85
    assert seconds <= 90  # of the processor; 30 on an idle core
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]
    assert max(line["ratio_error"] for line in lines) <= 1e-6
    assert lines[-1]["explained_variance"] > 0
