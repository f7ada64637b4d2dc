"""What may be set for proteins: data sets and networks, with their defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class GrammarSettings:
    """Synthetic folds (helices, hairpins, both) of `shortest` to `longest` residues; come with the package."""

    _target_: str = "rectiflow_proteins.data.grammar_folds"
    shortest: int = 24
    longest: int = 48


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


DATA: dict[str, type] = {"grammar": GrammarSettings, "chains": ChainsSettings, "folder": FolderSettings}
MODELS: dict[str, type] = {}
