"""`rectiflow scaffold proteins`: backbones around a motif out of a structure file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from rectiflow.domain import DomainSpec
from rectiflow.drawing import draw_sources, move
from rectiflow.errors import ConfigError, StorageError
from rectiflow.schedules import exponentials, scheduled
from rectiflow.trained import open_run
from rectiflow_proteins.domain import Proteins, backbones
from rectiflow_proteins.metrics import figures
from rectiflow_proteins.reading import read_structure
from rectiflow_proteins.scaffolding import Motif, motif_rmsd, scaffold
from rectiflow_proteins.secondary import secondary_structure

CLOSE = 1.0


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Draw backbones that hold the motif, write them, a picture and their figures, and return the folder.

    Raises:
        ConfigError: a bad setting, motif or run.
        DataError: the motif's file cannot be read.
        StorageError: the folder cannot be written.
    """
    _check(config)
    trained = open_run(spec, Path(config.run), config.weights)
    domain = trained.domain
    if not isinstance(domain, Proteins):
        raise ConfigError(f"run={config.run} is not a run of proteins")
    motif = Motif.of(motif_atoms(Path(config.motif), config.residues).float(), config.start - 1)
    generator = torch.Generator().manual_seed(config.seed)
    cond = domain.conditions(config.count, generator, length=config.length)
    cond = motif.conditions(cond)
    x0: Any = draw_sources(domain, trained.flow, cond, config.count, generator)
    schedule = exponentials(trained.config.sampling.get("exponential", {}))
    solution = scaffold(
        scheduled(trained.flow, schedule),
        move(x0, trained.device),
        motif,
        move(cond, trained.device),
        steps=config.steps,
        strength=config.strength,
        told="motif" in trained.config.model.told,
    )
    x = move(solution.x, "cpu")
    found = judge(motif, x["translations"], backbones(x, cond))
    folder = Path(config.out) if config.out else trained.folder / "samples" / f"scaffold-seed{config.seed}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = domain.save(x, cond, folder)
        domain.picture(x, cond).save(folder / "all.png")
        (folder / "figures.json").write_text(json.dumps(found, indent=1))
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another out=") from error
    print(f"{len(files)} backbones around {len(motif.places)} residues, {solution.nfe} evaluations each: {folder}")
    print(", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    return folder


def judge(motif: Motif, translations: Tensor, chains: Sequence[Tensor]) -> dict[str, float]:
    """Figures of backbones with CA (B, N, 3) and atoms (N, 4, 3) each.

    motif_rmsd (median, Angstrom), motif_held (share below 1 A), and ca_valid, peptide_valid and clash_free of whole chains.
    """
    gaps = motif_rmsd(motif, translations)
    whole = figures(chains, secondary_structure([chain[:, 1] for chain in chains]))
    return {
        "motif_rmsd": float(gaps.median()),
        "motif_held": float((gaps < CLOSE).double().mean()),
        **{name: whole[name] for name in ("ca_valid", "peptide_valid", "clash_free")},
    }


def motif_atoms(path: Path, residues: str) -> Tensor:
    """Atoms N, CA, C, O, (M, 4, 3), of the first chain of a file, or of a range of its residues such as 5-16, from 1.

    Raises:
        ConfigError: no chain without a break, or a range that is malformed or outside of it.
        DataError: the file cannot be read.
    """
    segments, _ = read_structure(path, shortest=3)
    if not segments:
        raise ConfigError(f"motif={path} holds no unbroken backbone of three residues or more; give another file")
    atoms = segments[0].atoms
    if not residues:
        return atoms
    first, dash, last = residues.partition("-")
    if not (
        dash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) - 2 and int(last) <= len(atoms)
    ):
        raise ConfigError(
            f"residues={residues} is not allowed: first-last, three residues or more of 1 to {len(atoms)}, for example 5-16"
        )
    return atoms[int(first) - 1 : int(last)]


def _check(config: DictConfig) -> None:
    for name in ("start", "length", "count", "steps"):
        if config[name] < 1:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least 1")
    if not 0 < config.strength <= 1:
        raise ConfigError(f"strength={config.strength} is not allowed: above 0, at most 1")
