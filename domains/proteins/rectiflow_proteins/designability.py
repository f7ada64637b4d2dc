"""`rectiflow designability proteins`: sequences for backbones on disk, folded by a program of one's own, and compared."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow_proteins.adapters import (
    DESIGNERS,
    FOLDERS,
    CommandFolder,
    Folder,
    SequenceDesigner,
    installed_adapter,
    self_consistency,
)
from rectiflow_proteins.mpnn import installed_mpnn
from rectiflow_proteins.reading import LONGEST, read_folder
from rectiflow_proteins.settings import DesignabilitySettings

DESIGNABLE = 2.0  # Angstrom
MPNN = "proteinmpnn"


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Design, fold and compare; print a summary, write every row and every setting, and return the file.

    Raises:
        ConfigError: a value that is not allowed.
        MissingDependency: ProteinMPNN or the folding program is not installed.
        DataError: structures that cannot be used, or a folding program that fails.
        StorageError: the file cannot be written.
    """
    settings: Any = OmegaConf.to_object(config)
    _check(settings)
    folder, designer = _folder(settings), _designer(settings)
    segments, rejections = read_folder(Path(settings.structures), 5, LONGEST, distinct=False)
    if not segments:
        raise DataError(f"{settings.structures} holds no usable backbone; the first reason: {rejections[0]}")
    generator = torch.Generator().manual_seed(settings.seed)
    backbones: list[dict[str, object]] = []
    least: list[float] = []
    for segment in segments:
        rows = self_consistency(
            segment.atoms, designer, folder, count=settings.count, temperature=settings.temperature, generator=generator
        )
        backbones.append({"backbone": segment.name, "rows": [_plain(asdict(row)) for row in rows]})
        least.append(min(row.rmsd for row in rows))
        print(
            f"{segment.name}: least RMSD of {len(rows)} designs {least[-1]:.2f} A, first {rows[0].sequence}", flush=True
        )
    out = Path(settings.out) if settings.out else Path(settings.structures) / "designability.json"
    text = json.dumps({"settings": asdict(settings), "backbones": backbones}, indent=1) + "\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}; choose another out=") from error
    if folder is not None:
        print(f"designable (RMSD below {DESIGNABLE:g} A): {sum(rmsd < DESIGNABLE for rmsd in least)} of {len(least)}")
    print(f"rows and settings: {out}")
    return out


def _check(settings: DesignabilitySettings) -> None:
    if settings.count < 1:
        raise ConfigError(f"count={settings.count} is not allowed: an integer of at least 1")
    if not 0 < settings.temperature < math.inf:
        raise ConfigError(f"temperature={settings.temperature} is not allowed: a number above 0, for example 0.1")


def _folder(settings: DesignabilitySettings) -> Folder | None:
    if settings.command and settings.folder:
        raise ConfigError(
            f"command={settings.command!r} and folder={settings.folder} are two folding programs; name one"
        )
    if settings.command:
        return CommandFolder(tuple(shlex.split(settings.command)))
    folder: Folder | None = installed_adapter(FOLDERS, settings.folder) if settings.folder else None
    return folder


def _designer(settings: DesignabilitySettings) -> SequenceDesigner:
    if settings.designer == MPNN:
        return installed_mpnn(settings.variant, settings.noise)
    designer: SequenceDesigner = installed_adapter(DESIGNERS, settings.designer, builtin=(MPNN,))
    return designer


def _plain(row: dict[str, object]) -> dict[str, object]:
    """The row with null for NaN, which JSON does not have."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
