"""The small classifiers whose features the image metrics are computed on: trained here, on the spot, always the same."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, StorageError
from rectiflow_images.data import ImageData


@dataclass(frozen=True)
class Recipe:
    """How a metric classifier is built and trained; a change of any value makes another network, under another key."""

    version: int = 1
    widths: tuple[int, int] = (32, 64)
    features: int = 64
    epochs: int = 30
    most_steps: int = 1500
    batch: int = 64
    learning_rate: float = 3e-3
    seed: int = 0


class Classifier(nn.Module):
    """Two convolutions, a layer of rectified features, and one logit a class.

    name: what the metrics computed on it are called after. The weights are not set here: `trained` does that.
    """

    def __init__(self, name: str, channels: int, size: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        self.name = name
        first_pool = 2 if size >= 16 else 1
        reduced = size // first_pool // 2
        narrow, wide = recipe.widths
        self.body = nn.Sequential(
            nn.Conv2d(channels, narrow, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(first_pool),
            nn.Conv2d(narrow, wide, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(wide * reduced**2, recipe.features),
            nn.ReLU(),
        )
        self.head = nn.Linear(recipe.features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images x, (N, C, H, W) in [-1, 1]."""
        logits: Tensor = self.head(self.body(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features before the last layer, (N, 64), of images x, (N, C, H, W) in [-1, 1]."""
        return torch.cat([self.body(part) for part in torch.split(x, 1024)])

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the rectified features (N, channels, ...) of each layer, of images x, (N, C, H, W), with a gradient."""
        found = []
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the most likely class, (N,) int64, of images x, (N, C, H, W) in [-1, 1]."""
        return torch.cat([self(part).argmax(dim=1) for part in torch.split(x, 1024)])


def trained(name: str, data: ImageData, recipe: Recipe | None = None) -> Classifier:
    """Return the classifier of `data` by `recipe`: from the cache if it was trained before, else trained and kept.

    The same data and recipe give the same bits on one kind of processor, whatever the state of any global generator and
    the number of threads; on another kind the last bits differ, and the Frechet distances by about 1e-4 of their value.

    Raises:
        ConfigError: the data have no labels, or the images are not square.
        StorageError: the cache cannot be written.
    """
    recipe = recipe or Recipe()
    labels = data.labels
    channels, height, width = data.images.shape[1:]
    if labels is None or height != width:
        raise ConfigError(
            f"a metric classifier got images of {height} x {width} with {'no ' if labels is None else ''}labels; "
            "it needs square images with one class each: choose other data or EfficientNet-Lite0 features"
        )
    # Built without initial values, so that no global generator is read.
    with torch.device("meta"):
        network = Classifier(name, channels, height, len(data.class_names), recipe)
    network = network.to_empty(device="cpu").float()
    path = cache_folder("images", "classifiers") / f"{name}-{_key(data, recipe)}.safetensors"
    if path.is_file():
        try:
            network.load_state_dict(load_file(path))
            return network.eval().requires_grad_(False)
        except (SafetensorError, RuntimeError):
            path.unlink()  # damaged: train it again below
    with _one_thread():
        _train(network, data.images, labels, recipe)
    _keep(network, path)
    return network.eval().requires_grad_(False)


def _key(data: ImageData, recipe: Recipe) -> str:
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for tensor in (data.images, data.labels):
        if tensor is not None:
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _one_thread() -> Iterator[None]:
    # The order of a sum over several threads changes its last bits.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(network: Classifier, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
    generator = torch.Generator().manual_seed(recipe.seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5  # torch's own default, drawn from a generator of ours
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    batches = math.ceil(len(images) / recipe.batch)
    steps = min(recipe.epochs * batches, recipe.most_steps)
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        if step % batches == 0:
            order = torch.split(torch.randperm(len(images), generator=generator), recipe.batch)
        chosen = order[step % batches]
        with torch.enable_grad():
            loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()


def _keep(network: Classifier, path: os.PathLike[str]) -> None:
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        save_file(network.state_dict(), partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"cannot keep the metric classifier at {os.fspath(path)}: {error}; "
            "the cache must be writable and have a few MB free: point RECTIFLOW_CACHE elsewhere"
        ) from error
