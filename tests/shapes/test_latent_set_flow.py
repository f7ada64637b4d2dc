"""The whole way with anchored latent sets, as a user goes it: autoencoder, flow, figures of samples beside held-out solids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import build
from rectiflow.settings import EvaluateSettings
from rectiflow.verbs import evaluate, train
from rectiflow_shapes import SPEC
from rectiflow_shapes.domain import Shapes
from rectiflow_shapes.extraction import grid_points
from rectiflow_shapes.guiding import sample_fields
from rectiflow_shapes.metrics import volume_iou
from rectiflow_shapes.signed_distance import signed_distance

DATA = ["data.count=300", "data.held=128"]
QUIET = ["training.preview_every=0", "training.tensorboard=false", "training.precision=bf16-mixed"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_latent_sets_of_minutes_make_solids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    out = [f"out={tmp_path}"]
    codes = ["stage=autoencoder", "representation=latent_set", "name=codes", "training.batch=16", "training.warmup=20"]
    steps = ["training.steps=300", "training.ema=0.98"]
    codes_run = train.run(SPEC, compose_training(SPEC, [*DATA, *QUIET, *out, *codes, *steps]))
    recipe = ["recipe=latent_set", f"representation.run={codes_run}", "name=sets", "training.batch=32"]
    recipe.append("representation.resolution=33")  # noise has surface everywhere, at 65 nodes two seconds a shape
    steps = ["training.steps=300", "training.warmup=20", "training.ema=0.99"]
    run = train.run(SPEC, compose_training(SPEC, [*DATA, *QUIET, *out, *recipe, *steps]))

    domain = build(SPEC, compose_training(SPEC, [*DATA, *recipe]))
    assert isinstance(domain, Shapes)
    held = domain.splits.validation.pick(torch.arange(16))
    fields = domain.representation.decode(domain.representation.encode(held))
    points = grid_points(48).reshape(-1, 3)
    found = [
        volume_iou(sample_fields(field[None], points)[0] < 0, signed_distance(held.mesh(row), points) < 0)
        for row, field in enumerate(fields)
    ]
    assert sum(found) / len(found) >= 0.5

    settings = [f"run={run}", "samplers=[euler-25]", "count=64", "paths=2", "batch=64"]
    evaluate.run(SPEC, compose_verb(EvaluateSettings, {}, settings))
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["valid.floor"] >= 0.95  # seen: 1, held-out solids encoded and decoded
    assert figures["valid.euler.nfe_25"] >= 0.5  # seen: 0.77, noise 0
    assert figures["nna_cd.euler.nfe_25"] < 0.97  # seen: 0.84
