"""`rectiflow designability proteins`: sequences for backbones on disk, folded by a program of one's own, and compared."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rectiflow.errors import ConfigError, DataError
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

DESIGNABLE = 2.0  # Angstrom
MPNN = "proteinmpnn"


@dataclass
class DesignabilitySettings:
    """What `rectiflow designability proteins` takes.

    structures: folder of PDB or mmCIF backbones. command: folding program with {fasta} and {out}; without it and without
    `folder` sequences are designed and no more. designer, folder: entry points of installed packages; proteinmpnn is built in,
    and `variant` and `noise` are its. count: sequences a backbone. out: file for the rows, in the folder of structures by
    default.
    """

    structures: str = MISSING
    command: str = ""
    folder: str = ""
    designer: str = MPNN
    count: int = 8
    temperature: float = 0.1
    variant: str = "vanilla"
    noise: str = "020"
    seed: int = 38
    out: str = ""


def run(arguments: Sequence[str]) -> int:
    """Design, fold and compare; print a summary, write every row and every setting, and return the exit code 0.

    Raises:
        ConfigError: an unknown or missing setting, or a value that is not allowed.
        MissingDependency: ProteinMPNN or the folding program is not installed.
        DataError: structures that cannot be used, or a folding program that fails.
    """
    settings = _settings(arguments)
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
    out.write_text(
        json.dumps({"settings": asdict(settings), "backbones": backbones}, indent=1) + "\n", encoding="utf-8"
    )
    if folder is not None:
        print(f"designable (RMSD below {DESIGNABLE:g} A): {sum(rmsd < DESIGNABLE for rmsd in least)} of {len(least)}")
    print(f"rows and settings: {out}")
    return 0


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


def _settings(arguments: Sequence[str]) -> DesignabilitySettings:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(DesignabilitySettings), OmegaConf.from_dotlist(list(arguments)))
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        allowed = ", ".join(DesignabilitySettings.__dataclass_fields__)
        raise ConfigError(f"{str(error).splitlines()[0]}; settings are {allowed}, each as key=value") from error
    if not isinstance(settings, DesignabilitySettings):
        raise ConfigError(f"settings {list(arguments)} are not key=value")
    return settings


def _plain(row: dict[str, object]) -> dict[str, object]:
    """The row with null for NaN, which JSON does not have."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
