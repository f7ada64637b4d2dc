"""`rectiflow demo shapes`: the core's demo, and sixteen meshes of the rectified flow in two steps as files."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from rectiflow.config import compose_verb
from rectiflow.domain import DomainSpec
from rectiflow.runs import read_config
from rectiflow.settings import SampleSettings
from rectiflow.verbs import demo, sample

MESHES = 16


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Train, rectify, evaluate both, write meshes, and return the report's path.

    Raises:
        RectiflowError: see the verbs.
    """
    page = demo.run(spec, config)
    print(f"{MESHES} meshes, all.png and turntable.gif: {write_meshes(spec, page.parent)}")
    return page


def write_meshes(spec: DomainSpec, run: Path) -> Path:
    """Sample meshes of a run in two steps and return their folder."""
    defaults = dict(read_config(run).sampling.items()) | {"cond": spec.conditions}
    return sample.run(spec, compose_verb(SampleSettings, defaults, [f"run={run}", f"count={MESHES}", "steps=2"]))
