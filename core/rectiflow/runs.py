"""Run folders: `runs/<domain>/<name>/` with config.yaml, logs, checkpoints, samples, figures and the report. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rectiflow.errors import ConfigError, StorageError

CONFIG_FILE = "config.yaml"


def read_config(folder: Path) -> DictConfig:
    """The configuration that a run was trained with; environment interpolations in it are refused.

    Raises:
        ConfigError: no run there, or a configuration that does not parse or reads environment variables.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"run={folder} holds no {CONFIG_FILE}; give the folder that train or reflow printed")
    try:
        config = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {' '.join(str(error).split())}; restore it from the checkpoint's copy"
        ) from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path} holds a {type(config).__name__}; it must be a mapping of settings")
    if "${" in path.read_text():
        raise ConfigError(f"{path} holds an interpolation (${{…}}); a run's configuration must be plain values")
    return config


def create_run(folder: Path, config: DictConfig) -> bool:
    """Make the folder and write its configuration; True when a run with the same configuration is already there.

    Raises:
        ConfigError: the folder holds a run with another configuration; the message names what differs.
        StorageError: the folder cannot be made or written.
    """
    if (folder / CONFIG_FILE).exists():
        differences = _differences(read_config(folder), config)
        if differences:
            raise ConfigError(
                f"{folder} holds a run with other settings ({'; '.join(differences[:3])}); "
                "use the same settings to continue it, or another name="
            )
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{CONFIG_FILE}.{os.getpid()}"
        scratch.write_text(OmegaConf.to_yaml(config, resolve=True))
        scratch.replace(folder / CONFIG_FILE)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}; choose another out= or free the folder"
        ) from error
    return False


def _differences(stored: DictConfig, wanted: DictConfig) -> list[str]:
    old, new = _flat(OmegaConf.to_container(stored)), _flat(OmegaConf.to_container(wanted, resolve=True))
    return [
        f"{key} was {old.get(key)}, now {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {path: value for key, child in node.items() for path, value in _flat(child, f"{prefix}{key}.").items()}


def teacher_of(folder: Path) -> Path | None:
    """The run that this one was made from (rectified, distilled, fine-tuned), None for a run from data or a teacher that is gone.

    The configuration stores the path relative to the run, so that a tree of runs can be moved.
    """
    relative = read_config(folder).get("teacher")
    if not relative:
        return None
    teacher = Path(os.path.normpath(folder / relative))
    return teacher if (teacher / CONFIG_FILE).is_file() else None


def lineage(folder: Path) -> list[Path]:
    """The run and the runs it was made from, the oldest first."""
    runs = [folder]
    while (teacher := teacher_of(runs[0])) is not None and teacher not in runs:
        runs.insert(0, teacher)
    return runs
