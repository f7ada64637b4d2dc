"""`rectiflow distill`: a few-step student of a run, by any method."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import DomainSpec, build
from rectiflow.drawing import TOLERANCES
from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import take_over_times
from rectiflow.rectify.creation import asks_perceptual, create_method
from rectiflow.rectify.distillation import Distillation, StudentTask
from rectiflow.rectify.guidance_condition import Scales, guided_student, guided_teacher
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
    method = create_method(teacher.domain, config.method)
    if asks_perceptual(config.method):
        row = teacher.domain.dataset("train").__getitems__([0]).x1
        teacher.domain.perceptual(row, row)  # so that a domain without one says so before anything is made
    scales = _scales(config)
    guided_student(method, guided_teacher(teacher.flow, scales), scales)
    student_config = _student_config(teacher, config, method, folder)
    domain = build(spec, student_config)
    network = new_network(domain, options.seed)
    if not config.fresh:
        load_what_fits(network, teacher.network.state_dict())
        take_over_times(network, teacher.network)
    create_run(folder, student_config)
    distillation = Distillation(teacher.flow, method, options.steps, scales)
    task = StudentTask(domain, network, distillation, student_config.sampling)
    data = _data(teacher, config, method, folder, scales)
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


def _scales(config: DictConfig) -> Scales | None:
    if not config.guidance_range:
        return None
    if len(config.guidance_range) != 2 or not 0 < config.guidance_range[0] <= config.guidance_range[1]:
        raise ConfigError(
            f"guidance_range={list(config.guidance_range)} is not allowed: it is [low,high] with 0 < low <= high, or [] for none"
        )
    return config.guidance_range[0], config.guidance_range[1]


def _data(teacher: Trained, config: DictConfig, method: Method, folder: Path, scales: Scales | None = None) -> Dataset:
    if method.trains_on == "data":
        return teacher.domain.dataset("train")
    pairs: Any = OmegaConf.to_container(config.pairs)
    if scales is not None:
        pairs["guidance"] = 1.0
    return training_pairs(teacher, folder, pairs, scales)


def _student_config(teacher: Trained, config: DictConfig, method: Method, folder: Path) -> DictConfig:
    """The teacher's configuration with what distillation changes."""
    plain: Any = OmegaConf.to_container(config)
    written: Any = OmegaConf.to_container(teacher.config)
    distill = {key: value for key, value in plain.items() if key not in ("run", "name", "out", "model", "training")}
    if not config.guidance_range:
        del distill["guidance_range"]
    if method.average:
        plain["model"]["until"] = True
    scales = _scales(config)
    if scales is not None:
        plain["model"]["guidance"] = True
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
            "guidance": _default_scale(written["sampling"]["guidance"], scales),
            "exponential": {},
        },
        "evaluation": {
            **written["evaluation"],
            "samplers": [f"{method.sampler}-{steps}" for steps in STUDENT_STEPS],
            "guidance": _default_scale(written["evaluation"]["guidance"], scales),
            "exponential": {},
        },
        "distill": distill,
    }
    return DictConfig(written)


def _default_scale(teachers: float, scales: Scales | None) -> float:
    """What a student is sampled with: the teacher's guidance as far as it was trained for it, else what is in its weights."""
    return 1.0 if scales is None else min(max(teachers, scales[0]), scales[1])
