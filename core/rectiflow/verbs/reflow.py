"""`rectiflow reflow`: pairs from a run, and a new run trained on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import DomainSpec, build
from rectiflow.drawing import tolerances
from rectiflow.errors import ConfigError
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.predictions import MARGIN
from rectiflow.runs import create_run
from rectiflow.solvers.catalogue import check_options
from rectiflow.trained import Trained, new_network, open_run
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow.verbs.pairs import make_pairs
from rectiflow.verbs.train import report_end


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Generate pairs with the teacher, train the student on them, and return its run folder; continues where it stopped.

    Raises:
        ConfigError: a bad teacher, solver or number.
    """
    options = TrainingOptions(**OmegaConf.to_container(config.training))  # type: ignore[arg-type]
    options.validate()
    check_options(config.method, tolerances(config))
    for name in ("pairs", "steps", "pair_batch"):
        if config[name] < 1:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least 1")
    teacher = open_run(spec, Path(config.run))
    folder = Path(str(config.out), spec.name, str(config.name))
    if folder.resolve() == teacher.folder.resolve():
        raise ConfigError(f"name={config.name} is the teacher's own folder; choose another name=")
    student_config = _student_config(teacher, config, folder)
    create_run(folder, student_config)
    pairs = make_pairs(
        teacher,
        folder / "pairs",
        count=config.pairs,
        method=config.method,
        steps=config.steps,
        guidance=config.guidance,
        exponential=config.exponential,
        batch=config.pair_batch,
        seed=config.seed,
        tolerances=tolerances(config),
    )
    domain = build(spec, student_config)
    network = new_network(domain, options.seed)
    if not config.fresh:
        network.load_state_dict(teacher.network.state_dict())
    method = FlowMatching(
        times=domain.create(config.times),
        condition_drop=config.condition_drop,
        weight=student_config.weight,
        weight_margin=student_config.get("weight_margin", MARGIN),
    )
    task = FlowTask(domain, network, method, student_config.sampling)
    fitted = fit(task, pairs, options, folder=folder, config=OmegaConf.to_yaml(student_config))
    report_end(fitted, folder, spec.name)
    return folder


def _student_config(teacher: Trained, config: DictConfig, folder: Path) -> DictConfig:
    """The teacher's configuration with what reflow changes."""
    plain: Any = OmegaConf.to_container(config)
    reflow = {key: value for key, value in plain.items() if key not in ("run", "name", "out")}
    student = OmegaConf.merge(
        teacher.config,
        {
            "name": config.name,
            "out": config.out,
            "teacher": os.path.relpath(teacher.folder, folder),
            "times": None,
            "training": None,
            "reflow": None,
        },
        {
            "times": config.times,
            "training": config.training,
            "condition_drop": config.condition_drop,
            "reflow": reflow,
        },
    )
    written: Any = OmegaConf.to_container(student)  # plain, as it will be read back
    for section in ("sampling", "evaluation"):
        written[section] = {**written[section], "exponential": plain["student_exponential"]}
    return DictConfig(written)
