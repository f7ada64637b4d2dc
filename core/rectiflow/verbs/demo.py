"""`rectiflow demo`: from embedded data to a one-step generator and its report."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig

from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import DomainSpec
from rectiflow.runs import read_config
from rectiflow.settings import EvaluateSettings, ReflowVerbSettings
from rectiflow.verbs import evaluate, reflow, train


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Train a base flow, rectify it, evaluate both and return the report's path; what is done already is not done again.

    Raises:
        RectiflowError: see the verbs.
    """
    started = time.perf_counter()
    recipe = config.recipe or spec.default_recipe
    place = f"out={config.out}"
    _say(1, "train the base flow")
    base = train.run(spec, compose_training(spec, [f"recipe={recipe}", f"name={config.name}/base", place]))
    stored = read_config(base)
    _say(2, "rectify it: its own noise-sample pairs, trained again")
    base_reflow = dict(stored.reflow.items())
    settings = [f"run={base}", f"name={config.name}/rectified", place]
    student = reflow.run(spec, compose_verb(ReflowVerbSettings, base_reflow, settings))
    _say(3, "evaluate the base flow")
    evaluate.run(spec, compose_verb(EvaluateSettings, dict(stored.evaluation.items()), [f"run={base}"]))
    _say(4, "evaluate the rectified flow")
    evaluate.run(spec, compose_verb(EvaluateSettings, dict(stored.evaluation.items()), [f"run={student}"]))
    path = student / "report.html"
    print(f"\ndone in {(time.perf_counter() - started) / 60:.1f} minutes. Open {path}")
    return path


def _say(number: int, what: str) -> None:
    print(f"\n[{number}/4] {what}", flush=True)
