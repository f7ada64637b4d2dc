"""Small models for a quick study: each domain's recipe for a share of its steps, base and rectified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import DomainSpec
from rectiflow.runs import read_config
from rectiflow.settings import ReflowVerbSettings
from rectiflow.verbs import reflow, train

NAME = "bench-quick"
SHARE = 0.02
FEWEST = 20


def quick_models(spec: DomainSpec, config: DictConfig) -> dict[str, Path]:
    """The two runs, trained unless they are there; they are no good, and say nothing but that everything runs and how fast.

    Raises:
        RectiflowError: see the verbs.
    """
    place = [f"out={config.out}"]
    recipe = compose_training(spec, [])
    base = train.run(spec, compose_training(spec, [f"name={NAME}/base", *place, *_short(recipe, "training")]))
    stored = read_config(base)
    pairs = max(2 * int(stored.reflow.training.batch), round(SHARE * stored.reflow.pairs))
    settings = [f"run={base}", f"name={NAME}/rectified", f"pairs={pairs}", *place, *_short(recipe.reflow, "training")]
    student = reflow.run(spec, compose_verb(ReflowVerbSettings, dict(stored.reflow.items()), settings))
    return {"base": base, "rectified": student}


def _short(section: Any, name: str) -> list[str]:
    options = section[name]
    steps = max(FEWEST, round(SHARE * options.steps))
    quiet = [f"{name}.tensorboard=false", f"{name}.preview_every=0"]
    return [f"{name}.steps={steps}", f"{name}.warmup={min(options.warmup, steps // 5)}", *quiet]
