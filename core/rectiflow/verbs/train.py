"""`rectiflow train`: a domain's network from its data, into a run folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import Domain, DomainSpec, build
from rectiflow.drawing import tolerances
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.runs import create_run
from rectiflow.solvers.catalogue import check_options
from rectiflow.trained import new_network
from rectiflow.training.batches import Dataset
from rectiflow.training.loop import Fitted, fit
from rectiflow.training.options import TrainingOptions


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Train, or continue a run that was interrupted, and return its folder.

    Raises:
        RectiflowError: see `fit`, `create_run` and the domain.
    """
    options = TrainingOptions(**OmegaConf.to_container(config.training))  # type: ignore[arg-type]
    options.validate()
    domain = build(spec, config)
    folder = Path(str(config.out), spec.name, str(config.name))
    task, dataset = flow_stage(domain, config, options.seed) if config.stage == "flow" else domain.stage(config.stage)
    create_run(
        folder, config
    )  # after all that can be wrong with the settings, so that a mistake leaves no folder behind
    fitted = fit(task, dataset, options, folder=folder, config=OmegaConf.to_yaml(config))
    report_end(fitted, folder, spec.name, samples=config.stage == "flow")
    return folder


def flow_stage(domain: Domain, config: DictConfig, seed: int) -> tuple[FlowTask, Dataset]:
    """What the training loop needs for a domain's flow: a task with fresh weights, and the data.

    Raises:
        ConfigError: a wrong prediction type, solver or setting.
    """
    method = FlowMatching(
        times=domain.create(config.times),
        coupling=domain.create(config.coupling),
        condition_drop=config.condition_drop,
        weight=config.weight,
        weight_margin=config.weight_margin,
    )
    if tolerances(config.sampling):
        check_options(config.sampling.method, tolerances(config.sampling))
    dataset = domain.dataset("train")
    task = FlowTask(domain, new_network(domain, seed), method, config.sampling)
    task.flow(task.network)  # finds a wrong prediction type
    return task, dataset


def report_end(fitted: Fitted, folder: Path, domain: str, *, samples: bool = True) -> None:
    """Say, on the first process, where the run is and, if it can be drawn samples from, what to do next."""
    if fitted.rank != 0:
        return
    parameters = sum(parameter.numel() for parameter in fitted.network.parameters())
    print(
        f"trained {parameters / 1e6:.2f} M parameters, {fitted.step} steps, {fitted.seconds:.0f} s, loss {fitted.loss:.4f}"
    )
    print(f"run: {folder}")
    if samples:
        print(f"next: rectiflow sample {domain} run={folder} · rectiflow evaluate {domain} run={folder}")
