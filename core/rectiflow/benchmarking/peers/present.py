"""Which peers are installed: each is made where it is, and named with its pip command where it is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import torch

INSTALL = "pip install 'rectiflow[bench]'"
PACKAGES = (
    "torchcfm",
    "POT",
    "torchdyn",
    "torchdiffeq",
    "flow_matching",
    "diffusers",
    "rectified-flow-pytorch",
    "stable-baselines3",
    "roma",
    "biotite",
    "trimesh",
    "libigl",
    "pyvista",
    "torchaudio",
)
Made = TypeVar("Made")
Makers = dict[str, Callable[[], Made]]


def those_installed(makers: Mapping[str, Callable[[], Made]]) -> tuple[dict[str, Made], dict[str, str]]:
    """What could be made, by name; and for those whose package is missing, the command that brings it."""
    made, missing = {}, {}
    for name, make in makers.items():
        try:
            with untouched():
                made[name] = make()
        except ImportError:
            missing[name] = INSTALL
    return made, missing


@contextmanager
def untouched() -> Iterator[None]:
    """Peers warn when they are imported and draw from torch's global generator: neither is to reach the caller."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
