"""Trained runs, opened for sampling: a domain, its flow and the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rectiflow.domain import Domain, DomainSpec, build
from rectiflow.errors import CheckpointCorrupt, ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.creation import create_method
from rectiflow.rectify.guidance_condition import guided_student
from rectiflow.runs import CONFIG_FILE, read_config
from rectiflow.training.checkpoint import load_weights


@dataclass(frozen=True)
class Trained:
    """A trained run, opened for sampling.

    Attributes:
        folder: where it lives.
        config: what it was trained with.
        domain: its domain, built from that configuration.
        network: the weights that were asked for, in evaluation mode.
        flow: the network read as a flow.
        device: where the network is.
    """

    folder: Path
    config: DictConfig
    domain: Domain
    network: nn.Module
    flow: Flow
    device: torch.device


def new_network(domain: Domain, seed: int) -> nn.Module:
    """A network with fresh weights that depend on the seed alone."""
    # A network made of torch's own layers is initialised from the global generator, whatever it is given: that one is
    # seeded for the moment and handed back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return domain.network(torch.Generator().manual_seed(seed))


def load_network(domain: Domain, folder: Path, which: str) -> nn.Module:
    """A domain's network with a run's averaged ("ema") or raw ("model") weights.

    Raises:
        ConfigError: no checkpoint yet, or an unknown kind of weights.
        CheckpointCorrupt: no intact checkpoint, or weights that do not fit the network.
    """
    network = new_network(domain, 0)
    weights = load_weights(folder, which)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointCorrupt(
            f"{folder}: the weights do not fit the model of its {CONFIG_FILE}: {reason}; was it edited?"
        ) from error
    return network.eval().requires_grad_(False)


def load_what_fits(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Start a student from a teacher's weights; what only the student has (a second time) stays as it is.

    Raises:
        ConfigError: a weight of the teacher has no place in the student.
    """
    own = network.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            found = tuple(own[name].shape) if name in own else "absent"
            raise ConfigError(
                f"the teacher's weights do not fit the student: {name} is {tuple(value.shape)} there, {found} here; "
                "use fresh=true for another network"
            )
    network.load_state_dict({**own, **weights})


def open_run(spec: DomainSpec, folder: Path, which: str = "ema") -> Trained:
    """Open a run of a domain for sampling.

    Raises:
        ConfigError: no run there, a run of another domain, or no checkpoint yet.
        CheckpointCorrupt: no intact checkpoint.
    """
    config = read_config(folder)
    if config.get("domain") != spec.name:
        raise ConfigError(
            f"run={folder} is a run of domain {config.get('domain')!r}, not {spec.name!r}; name its own domain"
        )
    domain = build(spec, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(domain, folder, which).to(device)
    flow = domain.flow(network)
    if config.get("distill"):
        scales = config.distill.get("guidance_range")
        flow = guided_student(
            create_method(domain, config.distill.method), flow, (scales[0], scales[1]) if scales else None
        )
    return Trained(folder, config, domain, network, flow, device)
