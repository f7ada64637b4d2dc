"""`rectiflow distill`: a few-step student of a run, by any method."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import DomainSpec, build
from rectiflow.drawing import TOLERANCES
from rectiflow.errors import ConfigError
from rectiflow.rectify.distillation import Distillation, StudentTask
from rectiflow.rectify.method import Method
from rectiflow.runs import create_run
from rectiflow.solvers.catalogue import solver
from rectiflow.trained import Trained, load_what_fits, new_network, open_run
from rectiflow.training.batches import Dataset
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow.verbs.pairs import training_pairs
from rectiflow.verbs.train import report_end

STUDENT_STEPS = (1, 2, 4)


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Train a student of a run and return its folder; continues where it stopped.

    Raises:
        ConfigError: a bad teacher, method, solver or number, or a network that lacks what the method needs.
    """
    options = TrainingOptions(**OmegaConf.to_container(config.training))  # type: ignore[arg-type]
    options.validate()
    _check_pairs(config.pairs)
    teacher = open_run(spec, Path(config.run))
    folder = Path(str(config.out), spec.name, str(config.name))
    if folder.resolve() == teacher.folder.resolve():
        raise ConfigError(f"name={config.name} is the teacher's own folder; choose another name=")
    method: Method = teacher.domain.create(config.method)
    student_config = _student_config(teacher, config, method, folder)
    domain = build(spec, student_config)
    network = new_network(domain, options.seed)
    if not config.fresh:
        load_what_fits(network, teacher.network.state_dict())
    create_run(folder, student_config)
    distillation = Distillation(teacher.flow, method, options.steps)
    task = StudentTask(domain, network, distillation, student_config.sampling)
    data = _data(teacher, config, method, folder)
    fitted = fit(task, data, options, folder=folder, config=OmegaConf.to_yaml(student_config))
    report_end(fitted, folder, spec.name)
    return folder


def _check_pairs(pairs: DictConfig) -> None:
    solver(pairs.method)
    for name in ("count", "steps", "batch"):
        if pairs[name] < 1:
            raise ConfigError(f"pairs.{name}={pairs[name]} is not allowed: it must be an integer of at least 1")
    if not (0 < pairs.keep <= 1 and 0 <= pairs.real < 1):
        raise ConfigError(
            f"pairs.keep={pairs.keep}, pairs.real={pairs.real}: what is kept is above 0 and at most 1, "
            "what is real at least 0 and below 1"
        )


def _data(teacher: Trained, config: DictConfig, method: Method, folder: Path) -> Dataset:
    if method.trains_on == "data":
        return teacher.domain.dataset("train")
    pairs: Any = OmegaConf.to_container(config.pairs)
    return training_pairs(teacher, folder, pairs)


def _student_config(teacher: Trained, config: DictConfig, method: Method, folder: Path) -> DictConfig:
    """The teacher's configuration with what distillation changes."""
    plain: Any = OmegaConf.to_container(config)
    written: Any = OmegaConf.to_container(teacher.config)
    distill = {key: value for key, value in plain.items() if key not in ("run", "name", "out", "model", "training")}
    if method.average:
        plain["model"]["until"] = True
    written |= {
        "name": config.name,
        "out": config.out,
        "teacher": os.path.relpath(teacher.folder, folder),
        "model": plain["model"],
        "training": plain["training"],
        "sampling": {
            **{name: value for name, value in written["sampling"].items() if name not in TOLERANCES},
            "method": method.sampler,
            "steps": 1,
            "guidance": 1.0,
            "exponential": {},
        },
        "evaluation": {
            **written["evaluation"],
            "samplers": [f"{method.sampler}-{steps}" for steps in STUDENT_STEPS],
            "guidance": 1.0,
            "exponential": {},
        },
        "distill": distill,
    }
    return DictConfig(written)
