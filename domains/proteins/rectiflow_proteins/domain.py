"""Proteins as the core sees them: chains, the network, files, pictures and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond, Mask, Shape, State
from rectiflow.domain import Domain
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.records import Metric, Reference
from rectiflow_proteins.batches import FrameDataset, check_told
from rectiflow_proteins.conditions import requested, spread_conditions
from rectiflow_proteins.data import Chains
from rectiflow_proteins.flow import NULL, FrameNoise, backbone_space
from rectiflow_proteins.frames import atoms_from_frames, with_oxygens
from rectiflow_proteins.losses import clash_loss, link_loss
from rectiflow_proteins.metrics import METRICS, Summary, evaluate, figures, summarise
from rectiflow_proteins.output import write_structure
from rectiflow_proteins.plots import contact_maps, ramachandran_plot
from rectiflow_proteins.ribbons import paint, ribbon
from rectiflow_proteins.viewer import viewer_page

COLUMNS = 8
TILE = 160
VIEWED = 600  # training chains behind the Ramachandran plot


class Proteins(Domain):
    """Backbones as frames, of several lengths, conditioned on length, secondary structure or a motif."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        check_told(config.model.told)
        if config.predicts != "data":
            raise ConfigError(
                f"predicts={config.predicts} is not allowed for proteins; the network estimates data: predicts=data"
            )

    @cached_property
    def splits(self) -> tuple[Chains, Chains]:
        """Training and validation chains."""
        train, validation = self.create(self.config.data)
        return train, validation

    @property
    def longest(self) -> int:
        """Residues of the longest training chain."""
        return int(self.splits[0].lengths.max())

    def dataset(self, split: str) -> FrameDataset:
        """The chains of a split."""
        if split not in ("train", "validation"):
            raise ConfigError(f"split {split!r} is unknown; allowed: train, validation")
        return FrameDataset(self.splits[split == "validation"], self.config.model.told)

    def network(self, generator: torch.Generator) -> nn.Module:
        """The configured network."""
        network: nn.Module = self.create(self.config.model, generator=generator)
        return network

    def flow(self, network: Callable[..., Any]) -> Flow:
        """The network's estimate of data as a flow from frames without structure."""
        return self.flow_of(network, space=backbone_space(), source=FrameNoise(), null=NULL, self_conditioning=True)

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """Lengths with their secondary structure content as in the data; or as `length`, `helix`, `strand`, `labels` ask."""
        spread = spread_conditions(self.splits[0], count, self.longest, generator)
        return requested(spread, self.config.model.told, request)

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """Two rows."""
        return 2 * COLUMNS, self.conditions(2 * COLUMNS, generator)

    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """Translations (count, N, 3) and rotations (count, N, 4), N that of the conditions, else the longest chain's."""
        size = cond["mask"].shape[1] if cond else self.longest
        return {"translations": (count, size, 3), "rotations": (count, size, 4)}

    def mask(self, cond: Cond) -> Mask:
        """The residues that the conditions ask for."""
        return cond.get("mask")

    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """One PDB file a backbone, named by number and length."""
        return [
            write_structure(folder / f"{number:05d}-{len(atoms)}.pdb", [atoms])
            for number, atoms in enumerate(backbones(x, cond))
        ]

    def picture(self, x: State, cond: Cond) -> Image.Image:
        """The backbones as ribbons, side by side."""
        ribbons = [ribbon(atoms) for atoms in backbones(x, cond)]
        return paint(ribbons, COLUMNS if len(ribbons) % COLUMNS == 0 else math.ceil(math.sqrt(len(ribbons))), TILE)

    def view(self, x: State, cond: Cond) -> str:
        """The backbones to turn with the mouse, with their Ramachandran plot and contact maps."""
        chains = backbones(x, cond)
        pictures = {
            "Phi and psi": ramachandran_plot(chains, self._training[:VIEWED]),
            "Contacts": contact_maps(chains, COLUMNS),
        }
        return viewer_page(chains, [f"{len(chain)} residues" for chain in chains], pictures=pictures)

    @property
    def metrics(self) -> Sequence[Metric]:
        """Geometry first."""
        return METRICS

    @property
    def headline(self) -> str:
        """Peptide links: the chain's turns must be right for them, while CA-CA only needs the places."""
        return "peptide_valid"

    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Figures of backbones against the training chains."""
        return evaluate(backbones(x, cond), self._summary, self._training)

    def extra_loss(self, flow: Flow, prediction: Any, draw: Draw, batch: Batch) -> dict[str, Tensor]:
        """Peptide links and clashes of the estimate."""
        mask = draw.cond["mask"]
        return {"links": link_loss(prediction, draw.t, mask), "clashes": clash_loss(prediction, draw.t, mask)}

    def quality(self, x: State, cond: Cond) -> Tensor:
        """Shares of sound CA-CA and C-N links, plus one without a clash: (count,), at most 3."""
        scores = []
        for chain in backbones(x, cond):
            found = figures([chain], [torch.zeros(len(chain), dtype=torch.long)])
            scores.append(found["ca_valid"] + found["peptide_valid"] + found["clash_free"])
        return torch.tensor(scores)

    def references(self, count: int, seed: int) -> list[Reference]:
        """Held-out chains as the floor, and frames without structure as the baseline."""
        validation = self.splits[1]
        held = [validation.chain(i) for i in range(min(count, len(validation)))]
        generator = torch.Generator().manual_seed(seed)
        cond = self.conditions(count, generator)
        noise = FrameNoise()(
            self.sample_shape(count, cond),
            cond=cond,
            generator=generator,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        return [
            Reference("floor", "held-out chains", len(held), evaluate(held, self._summary, self._training)),
            Reference("baseline", "frames without structure", count, self.evaluate(noise, cond)),
        ]

    @cached_property
    def _training(self) -> list[Tensor]:
        return [self.splits[0].chain(i) for i in range(len(self.splits[0]))]

    @cached_property
    def _summary(self) -> Summary:
        train = self.splits[0]
        return summarise(self._training, [train.states(i) for i in range(len(train))])


def backbones(x: State, cond: Cond) -> list[Tensor]:
    """Atoms N, CA, C, O, (N, 4, 3), of each state without its padding."""
    if not isinstance(x, dict):
        raise ConfigError("backbones are states with translations and rotations; got a tensor")
    mask = cond["mask"]
    atoms = with_oxygens(atoms_from_frames(x["rotations"], x["translations"]), mask)
    return [chain[present] for chain, present in zip(atoms, mask, strict=True)]
