"""Images as the core sees them: data, networks, pictures and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond, Shape, State
from rectiflow.domain import Domain
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.records import Metric, Reference
from rectiflow_images.classifier import Classifier, trained
from rectiflow_images.data import ImageData
from rectiflow_images.features import EfficientNetLite0
from rectiflow_images.metrics import FeatureNet, class_gaussian, evaluate_images, floors
from rectiflow_images.perceptual import feature_distance

CLASSIFIER_NAMES = {
    "rectiflow_images.data.digits": "digitsnet",
    "rectiflow_images.data.mnist_subset": "mnistnet",
    "rectiflow_images.data.mnist": "mnistnet",
    "rectiflow_images.data.fashion_mnist": "fashionnet",
}
STRIP_COLUMNS = 10
TILE = 64
GAP = 4


class ImageDataset:
    """Images of one split as batches; conditions hold the label when the data have classes."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The images at these indices."""
        rows = torch.tensor(indices)
        cond = {} if self.data.labels is None else {"label": self.data.labels[rows]}
        return Batch(x1=self.data.images[rows], cond=cond)


class Images(Domain):
    """Images (B, C, H, W) in [-1, 1], conditioned on a class label when the data have classes."""

    @cached_property
    def splits(self) -> tuple[ImageData, ImageData]:
        """Training and validation images."""
        train, validation = self.create(self.config.data)
        return train, validation

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty for data without labels."""
        return self.splits[0].class_names if self.splits[0].labels is not None else ()

    def dataset(self, split: str) -> ImageDataset:
        """The images of a split."""
        if split not in ("train", "validation"):
            raise ConfigError(f"split {split!r} is unknown; allowed: train, validation")
        return ImageDataset(self.splits[split == "validation"])

    def network(self, generator: torch.Generator) -> nn.Module:
        """The configured network for images of the data's size."""
        channels, height, width = self.splits[0].images.shape[1:]
        network: nn.Module = self.create(
            self.config.model, channels=channels, size=(height, width), classes=len(self.classes), generator=generator
        )
        return network

    def flow(self, network: Callable[..., Any]) -> Flow:
        """A Euclidean flow whose null label is the number of classes."""
        return self.flow_of(network, null={"label": len(self.classes)} if self.classes else None)

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """Labels (count,) in the data's proportions and random order, or those of `label`, repeated in turn."""
        labels = self.splits[0].labels
        if labels is None:
            if request:
                raise ConfigError(f"cond.{next(iter(request))} was given, but these data have no classes; leave it out")
            return {}
        if "label" in request:
            wanted = request["label"] if isinstance(request["label"], (list, tuple)) else [request["label"]]
            return {
                "label": torch.tensor([self._class_index(name) for name in wanted])[torch.arange(count) % len(wanted)]
            }
        shares = torch.bincount(labels, minlength=len(self.classes)).double().cumsum(0) / len(labels)
        # Systematic sampling: every class gets its share to within one, whatever the seed.
        positions = (torch.arange(count) + torch.rand((), generator=generator).double()) / count
        spread = torch.searchsorted(shares, positions.clamp(max=1 - 1e-12), right=True)
        return {"label": spread[torch.randperm(count, generator=generator)]}

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """Two rows of ten: each column one class, as far as they go."""
        count = 2 * STRIP_COLUMNS
        if not self.classes:
            return count, {}
        return count, {"label": torch.arange(count) % STRIP_COLUMNS % len(self.classes)}

    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """(count, C, H, W)."""
        return (count, *self.splits[0].images.shape[1:])

    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """One PNG a sample at its own size, named by number and class."""
        files = []
        for number, pixels in enumerate(to_bytes(_tensor(x))):
            label = f"-{_file_name(self.classes[int(cond['label'][number])])}" if "label" in cond else ""
            files.append(folder / f"{number:05d}{label}.png")
            _image(pixels).save(files[-1])
        return files

    def picture(self, x: State, cond: Cond) -> Image.Image:
        """The images side by side, enlarged by a whole factor without smoothing."""
        pixels = to_bytes(_tensor(x))
        count, height, width, channels = pixels.shape
        columns = STRIP_COLUMNS if count % STRIP_COLUMNS == 0 else math.ceil(math.sqrt(count))
        rows, factor = math.ceil(count / columns), max(1, TILE // max(height, width))
        tall, wide = height * factor + GAP, width * factor + GAP
        canvas = np.full((rows * tall + GAP, columns * wide + GAP, channels), 255, dtype=np.uint8)
        for number, image in enumerate(pixels):
            top, left = GAP + number // columns * tall, GAP + number % columns * wide
            enlarged = image.repeat(factor, 0).repeat(factor, 1)
            canvas[top : top + height * factor, left : left + width * factor] = enlarged
        return _image(canvas)

    @cached_property
    def feature_net(self) -> FeatureNet:
        """What the figures are computed on: EfficientNet-Lite0 for colour, else a classifier trained on the training images.

        Raises:
            ConfigError: grey images without two classes, for which neither exists.
        """
        train = self.splits[0]
        if train.images.shape[1] == 3 and train.images.shape[-1] >= 32:
            return EfficientNetLite0()
        if len(self.classes) < 2:
            raise ConfigError(
                "grey images of one class have no network to be judged by; give the folder two sub-folders or more"
            )
        return trained(CLASSIFIER_NAMES.get(self.config.data["_target_"], "datanet"), train)

    @property
    def metrics(self) -> Sequence[Metric]:
        """Frechet distance first; the network's name is part of each name."""
        net = self.feature_net.name
        listed = [
            Metric(f"fd_{net}", f"FD ({net})", "lower", primary=True),
            Metric(f"kid_{net}", "KID", "lower"),
            Metric("sw2_pixels", "SW2 (pixels)", "lower"),
            Metric("fd_pixels", "FD (pixels)", "lower"),
            Metric(f"precision_{net}", "precision", "higher"),
            Metric(f"recall_{net}", "recall", "higher"),
            Metric(f"density_{net}", "density", "higher"),
            Metric(f"coverage_{net}", "coverage", "higher"),
            Metric(f"accuracy_{net}", "accuracy", "higher"),
            Metric(f"diversity_{net}", "diversity", "one"),
            Metric("memorisation", "memorisation", "one"),
        ]
        return listed

    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Figures of samples against the training images; values outside [-1, 1] are clipped, as in a picture."""
        train, validation = self.splits
        return evaluate_images(_tensor(x).clamp(-1, 1), cond.get("label"), train, validation, self.feature_net)

    def quality(self, x: State, cond: Cond) -> Tensor:
        """Log-probability (count,) that the classifier gives to the class that was asked for.

        Raises:
            ConfigError: images without classes, or colour, whose network does not classify.
        """
        net = self.feature_net
        if "label" not in cond or not isinstance(net, Classifier):
            raise ConfigError(f"the quality of a pair is its class's probability, which {net.name} cannot tell here")
        with torch.no_grad():
            scores: Tensor = net(_tensor(x).clamp(-1, 1)).log_softmax(1)
        return scores.gather(1, cond["label"][:, None])[:, 0]

    def perceptual(self, x: State, target: State) -> Tensor:
        """Difference (count,) of the features, layer by layer, of the network that the figures are computed on.

        Raises:
            ConfigError: see `feature_net`.
        """
        return feature_distance(self.feature_net.maps, _tensor(x), _tensor(target))

    def references(self, count: int, seed: int) -> list[Reference]:
        """Held-out real images as the floor, and a Gaussian a class as the baseline."""
        train, validation = self.splits
        floor = floors(train, validation, self.feature_net, count)
        found = [Reference("floor", floor.description, floor.count, floor.values)]
        if self.classes:
            generator = torch.Generator().manual_seed(seed)
            labels = self.conditions(count, generator)["label"]
            values = evaluate_images(
                class_gaussian(train, labels, generator), labels, train, validation, self.feature_net
            )
            found.append(Reference("baseline", "a Gaussian fitted to the pixels of each class", count, values))
        return found

    def _class_index(self, name: Any) -> int:
        if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(self.classes):
            return name
        if str(name) in self.classes:
            return list(self.classes).index(str(name))
        raise ConfigError(
            f"cond.label={name} is unknown; allowed: 0 to {len(self.classes) - 1}, or {', '.join(self.classes)}"
        )


def to_bytes(x: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] as bytes (B, H, W, C); values outside are clipped."""
    pixels: np.ndarray = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _tensor(x: State) -> Tensor:
    if isinstance(x, dict):
        raise ConfigError(f"images are tensors; got components {sorted(x)}")
    return x


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)[:40]
