"""`rectiflow sample`: artefacts that a person opens, from a run."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from rectiflow.domain import DomainSpec
from rectiflow.drawing import carry, draw_sources, tolerances
from rectiflow.errors import ConfigError, StorageError
from rectiflow.schedules import exponentials, scheduled
from rectiflow.solvers.catalogue import ADAPTIVE
from rectiflow.trained import open_run
from rectiflow.verbs.boss import walk


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Draw samples, write one artefact each and one picture of them all, and return their folder.

    Raises:
        ConfigError: a bad run, count, solver or condition.
        StorageError: the folder cannot be written.
    """
    for name in ("count", "batch", "steps"):
        if config[name] < 1:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least 1")
    trained = open_run(spec, Path(config.run), config.weights)
    generator = torch.Generator().manual_seed(config.seed)
    request = {key: value for key, value in config.cond.items() if value is not None}
    cond = trained.domain.conditions(config.count, generator, **request)
    flow = scheduled(trained.flow, exponentials(config.exponential))
    method, times = walk(trained, flow, config.method, config.steps, config.guidance)
    drawn = carry(
        flow,
        draw_sources(trained.domain, trained.flow, cond, config.count, generator),
        cond,
        method=method,
        times=times,
        steps=config.steps,
        shift=config.shift,
        guidance=config.guidance,
        batch=config.batch,
        device=trained.device,
        seed=config.seed,
        tolerances=tolerances(config),
    )
    sampler = config.method if config.method in ADAPTIVE else f"{config.method}-{config.steps}"
    sampler += "".join(f"-{name}{value:g}" for name, value in tolerances(config).items())
    folder = Path(config.out) if config.out else trained.folder / "samples" / f"{sampler}-seed{config.seed}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = trained.domain.save(drawn.x, cond, folder)
        trained.domain.picture(drawn.x, cond).save(folder / "all.png")
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another out=") from error
    each = 1000 * drawn.seconds / config.count
    print(f"{len(files)} samples, {drawn.nfe:g} evaluations, {each:.2f} ms each: {folder} (all.png shows all of them)")
    return folder
