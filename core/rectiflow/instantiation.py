"""Objects from configurations, by an allow-list of what may be named. Free of torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rectiflow.errors import ConfigError

ALWAYS_ALLOWED = ("rectiflow.", "torch.optim.", "torch.nn.")


def instantiate(node: Any, allowed_packages: Iterable[str], **arguments: Any) -> Any:
    """Build the object that a configuration node names by `_target_`.

    Args:
        node: a mapping with `_target_` and the constructor's keywords; nested mappings may have their own `_target_`.
        allowed_packages: top-level packages whose objects may be named, besides this one, torch.nn and torch.optim.
        arguments: further keywords.

    Raises:
        ConfigError: a target outside the allow-list (nothing is imported then), or a constructor that refuses its values.
    """
    plain: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else node
    prefixes = (*ALWAYS_ALLOWED, *(f"{package}." for package in allowed_packages))
    return _build({**plain, **arguments}, prefixes)


def _build(node: Any, prefixes: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_build(entry, prefixes) for entry in node]
    if not isinstance(node, dict):
        return node
    keywords = {key: _build(value, prefixes) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return keywords
    target = str(node["_target_"])
    if not target.startswith(prefixes):
        raise ConfigError(
            f"_target_ {target!r} is not allowed; it must start with one of {', '.join(sorted(prefixes))}"
        )
    module, _, name = target.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"_target_ {target!r} does not exist: {error}") from error
    if not callable(factory):
        raise ConfigError(f"_target_ {target!r} is a {type(factory).__name__}; it must be a class or a function")
    try:
        return factory(**keywords)
    except TypeError as error:
        raise ConfigError(f"{target} does not take these settings: {error}") from error
