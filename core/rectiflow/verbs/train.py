"""`rectiflow train`: a domain's network from its data, into a run folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import DomainSpec, build
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.runs import create_run
from rectiflow.trained import new_network
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
    method = FlowMatching(
        times=domain.create(config.times),
        coupling=domain.create(config.coupling),
        condition_drop=config.condition_drop,
        weight=config.weight,
    )
    folder = Path(str(config.out), spec.name, str(config.name))
    if config.stage == "flow":
        dataset = domain.dataset("train")
        network = new_network(domain, options.seed)
        domain.flow(network)  # a wrong prediction type is found before anything is written
        task = FlowTask(domain, network, method, config.sampling)
        create_run(folder, config)
        report_end(fit(task, dataset, options, folder=folder, config=OmegaConf.to_yaml(config)), folder, spec.name)
    else:
        stage_task, dataset = domain.stage(config.stage)
        create_run(folder, config)
        report_end(
            fit(stage_task, dataset, options, folder=folder, config=OmegaConf.to_yaml(config)), folder, spec.name
        )
    return folder


def report_end(fitted: Fitted, folder: Path, domain: str) -> None:
    """Say, on the first process, where the run is and what to do next."""
    if fitted.rank != 0:
        return
    parameters = sum(parameter.numel() for parameter in fitted.network.parameters())
    print(
        f"trained {parameters / 1e6:.2f} M parameters, {fitted.step} steps, {fitted.seconds:.0f} s, loss {fitted.loss:.4f}"
    )
    print(f"run: {folder}")
    print(f"next: rectiflow sample {domain} run={folder} · rectiflow evaluate {domain} run={folder}")
