"""What may be set for shapes: data, their representation and networks, with their defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rectiflow.training.options import TrainingOptions


@dataclass
class SolidsSettings:
    """Built-in solids: `count` to train on, `held` beside them whose attributes combine in ways that training never shows.

    Their family is demo (walls that a grid of 32 resolves) or wide (thin parts too).
    """

    _target_: str = "rectiflow_shapes.data.solids"
    family: str = "demo"
    count: int = 1600
    held: int = 256
    seed: int = 0


@dataclass
class FolderSettings:
    """Meshes below the folder `path`, kinds from its subfolders; a share `held` for validation, at most `count` (0: all)."""

    _target_: str = "rectiflow_shapes.folder_data.folder"
    path: str = MISSING
    held: float = 0.1
    count: int = 0


@dataclass
class LatentGridSettings:
    """A truncated distance grid through a small autoencoder: tokens of a coarse grid, each with its place."""

    _target_: str = "rectiflow_shapes.latent_grid.LatentGrid"
    side: int = 4
    channels: int = 16
    width: int = 96
    noise: float = 0.1
    kl: float = 1e-3
    run: str = ""
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(steps=1500, batch=32, learning_rate=2e-3, ema=0.995)
    )


@dataclass
class PrincipalGridSettings:
    """A truncated distance grid of 32^3 by its first principal components, in tokens of `columns`; for small families."""

    _target_: str = "rectiflow_shapes.principal_grid.PrincipalGrid"
    components: int = 256
    columns: int = 16
    whitening: float = 0.5


@dataclass
class MosaicSetSettings:
    """A set of `cubes` near the surface, each with a grid of distances of which `rank` principal components are kept."""

    _target_: str = "rectiflow_shapes.mosaic_set.MosaicSet"
    cubes: int = 64
    nodes: int = 7
    rank: int = 32
    whitening: float = 0.5
    resolution: int = 64
    kept: float = 0.8


@dataclass
class LatentSetSettings:
    """Codes of `tokens` points spread over the surface; `anchored` tokens keep their points, which the flow then makes too."""

    _target_: str = "rectiflow_shapes.latent_set.LatentSet"
    tokens: int = 64
    channels: int = 16
    width: int = 128
    depth: int = 2
    anchored: bool = True
    kl: float = 3e-4
    normal: float = 0.05
    eikonal: float = 0.01
    turning: bool = False
    resolution: int = 65
    run: str = ""
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(
            steps=4000, batch=16, learning_rate=2e-3, ema=0.998, precision="bf16-mixed"
        )
    )


@dataclass
class TransformerSettings:
    """Transformer over tokens; `told` lists what it may be asked for, of kind | attributes | caption.

    `time_scale` is how fast its time embedding waves: students of mean_flow, flow_map and marginal_transport want 10.
    """

    _target_: str = "rectiflow_shapes.network.ShapeTransformer"
    width: int = 128
    depth: int = 6
    heads: int = 4
    qk_norm: bool = True
    skips: bool = True
    steering: str = "adaptive"
    told: list[str] = field(default_factory=lambda: ["kind"])
    until: bool = False
    time_scale: float = 1000.0


@dataclass
class PaperSettings(TransformerSettings):
    """The size of a published network of its kind, 330 M parameters, for many GPUs."""

    width: int = 1152
    depth: int = 23
    heads: int = 16
    steering: str = "token"


@dataclass
class ShapeConditions:
    """What to draw: a `kind` by name or number or a list of them, a `caption`, and `attributes` by name, each in [0, 1]."""

    kind: Any = None
    caption: Any = None
    attributes: dict[str, float] = field(default_factory=dict)


DATA: dict[str, type] = {"solids": SolidsSettings, "folder": FolderSettings}
REPRESENTATIONS: dict[str, type] = {
    "principal_grid": PrincipalGridSettings,
    "latent_grid": LatentGridSettings,
    "latent_set": LatentSetSettings,
    "mosaic": MosaicSetSettings,
}
MODELS: dict[str, type] = {"transformer": TransformerSettings, "paper": PaperSettings}
