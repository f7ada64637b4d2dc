"""Methods from a configuration, which may ask for what only a domain has."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import Domain
from rectiflow.errors import ConfigError
from rectiflow.rectify.method import Method

PERCEPTUAL = "perceptual"


def create_method(domain: Domain, settings: Any) -> Method:
    """The method that settings name by `_target_`; where they say `perceptual: true` it gets the domain's own distance.

    Raises:
        ConfigError: settings that the method does not take, or another word for the distance.
    """
    method: Method = domain.create(_resolved(_plain(settings), domain))
    return method


def asks_perceptual(settings: Any) -> bool:
    """Whether settings, or those of a method inside, want the domain's perceptual distance."""
    plain = _plain(settings)
    return isinstance(plain, dict) and any(
        (key == PERCEPTUAL and value is True) or asks_perceptual(value) for key, value in plain.items()
    )


def _plain(settings: Any) -> Any:
    return OmegaConf.to_container(settings) if isinstance(settings, DictConfig) else settings


def _resolved(node: Any, domain: Domain) -> Any:
    if not isinstance(node, dict):
        return node
    resolved = {key: _resolved(value, domain) for key, value in node.items()}
    asked = resolved.get(PERCEPTUAL)
    if asked is True:
        resolved[PERCEPTUAL] = domain.perceptual
    elif asked is False:
        resolved[PERCEPTUAL] = None
    elif isinstance(asked, (str, int, float)):
        raise ConfigError(f"{PERCEPTUAL} is {asked!r}; allowed: true for the domain's own distance, null for none")
    return resolved
