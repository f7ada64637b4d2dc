"""What may be set for proteins: data sets and networks, with their defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class GrammarSettings:
    """Synthetic folds (helices, hairpins, both) of `shortest` to `longest` residues; come with the package."""

    _target_: str = "rectiflow_proteins.data.grammar_folds"
    shortest: int = 24
    longest: int = 48


@dataclass
class SyntheticSettings:
    """New synthetic folds of 24 to 128 residues, made once (five and more a second) and kept in the cache."""

    _target_: str = "rectiflow_proteins.data.synthetic_folds"
    shortest: int = 40
    longest: int = 128
    count: int = 2000
    seed: int = 0


@dataclass
class ChainsSettings:
    """Real chains; `rectiflow fetch proteins chains` first."""

    _target_: str = "rectiflow_proteins.data.fetched_chains"
    shortest: int = 40
    longest: int = 128


@dataclass
class FolderSettings:
    """A folder of PDB and mmCIF files, searched in depth; `on_error` is skip or raise."""

    _target_: str = "rectiflow_proteins.data.structure_folder"
    path: str = MISSING
    shortest: int = 40
    longest: int = 128
    on_error: str = "skip"


@dataclass
class BackboneSettings:
    """Point attention over frames; `told` lists what it may be asked for, of content | labels | motif.

    `harmonics` above 1 describes directions of pairs by e3nn's spherical harmonics up to that degree, in each residue's frame.
    `clearance` is how far, in Angstrom, sampling keeps CA of the chain from each other; 0 leaves that to what was learnt.
    """

    _target_: str = "rectiflow_proteins.network.BackboneNetwork"
    width: int = 96
    pair_width: int = 32
    blocks: int = 4
    heads: int = 4
    head_width: int = 16
    query_points: int = 4
    value_points: int = 6
    reach: int = 4
    bins: int = 16
    expansion: int = 3
    harmonics: int = 1
    told: list[str] = field(default_factory=lambda: ["content"])
    clearance: float = 4.0


@dataclass
class PaperSettings(BackboneSettings):
    """The size of the published networks, 17 M parameters."""

    width: int = 256
    pair_width: int = 128
    blocks: int = 6
    heads: int = 8
    head_width: int = 128
    query_points: int = 8
    value_points: int = 12
    bins: int = 22


@dataclass
class BackboneConditions:
    """What to draw: residues (`length`, one or a list), shares of `helix` and `strand`, or `labels` such as CCHHHHHCC."""

    length: Any = None
    helix: Any = None
    strand: Any = None
    labels: Any = None


@dataclass
class ScaffoldSettings:
    """`rectiflow scaffold proteins`: the run (sampled on its own schedule), the motif, where it goes, and how hard it is held.

    `motif` is a structure file, and of its first chain `residues` such as 5-16 (all by default), counted from 1; they begin at
    residue `start` of chains of `length`.
    """

    run: str = MISSING
    motif: str = MISSING
    residues: str = ""
    start: int = 1
    length: int = 40
    count: int = 16
    steps: int = 50
    strength: float = 1.0
    seed: int = 0
    weights: str = "ema"
    out: str = ""


@dataclass
class DesignabilitySettings:
    """`rectiflow designability proteins`: sequences for backbones on disk, folded by a program of one's own, and compared.

    `structures` is a folder of PDB or mmCIF backbones. `command` is a folding program with {fasta} and {out}; without it and
    without `folder` sequences are designed and no more. `designer` and `folder` name entry points of installed packages;
    proteinmpnn is built in, and `variant` and `noise` are its. `count` sequences a backbone; `out` is a file for the rows, in the
    folder of structures by default.
    """

    structures: str = MISSING
    command: str = ""
    folder: str = ""
    designer: str = "proteinmpnn"
    count: int = 8
    temperature: float = 0.1
    variant: str = "vanilla"
    noise: str = "020"
    seed: int = 38
    out: str = ""


DATA: dict[str, type] = {
    "grammar": GrammarSettings,
    "synthetic": SyntheticSettings,
    "chains": ChainsSettings,
    "folder": FolderSettings,
}
MODELS: dict[str, type] = {"backbone": BackboneSettings, "paper": PaperSettings}
