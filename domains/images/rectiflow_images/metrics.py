"""The figures of a set of generated images: what is computed, on which features, and what real images score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow.metrics import (
    diversity_ratio,
    frechet_distance,
    kernel_distance,
    memorisation_ratio,
    prdc,
    sliced_wasserstein,
)
from rectiflow_images.data import ImageData, held_out

_SLICES_SEED = 0  # the directions of the sliced distance are part of its definition


class FeatureNet(Protocol):
    """A network whose features metrics are computed on, and called after."""

    @property
    def name(self) -> str:
        """What the metrics are called after."""

    def features(self, x: Tensor) -> Tensor:
        """Return (N, D) features of images x, (N, C, H, W) in [-1, 1]."""

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the features (N, channels, ...) of each layer, coarser and coarser, with a gradient."""


@runtime_checkable
class ClassifierNet(FeatureNet, Protocol):
    """A feature network that also names the class."""

    def predict(self, x: Tensor) -> Tensor:
        """Return (N,) int64 classes of images x, (N, C, H, W) in [-1, 1]."""


def evaluate_images(
    x: Tensor, labels: Tensor | None, train: ImageData, validation: ImageData, net: FeatureNet
) -> dict[str, float]:
    """Return every figure of the images x against the training split, under keys that name the network.

    x: (N, C, H, W) in [-1, 1], compared as given: clamp them first. labels: (N,) int64, the classes asked for; without
    them there is no accuracy and no diversity. The held-out split only scales `memorisation`. Accuracy needs a network
    that classifies. Lower is better for fd, kid and sw2; higher for precision, recall, density, coverage and
    accuracy; near 1 for diversity and memorisation.

    Raises:
        DataError: x has another shape than the data or values outside [-1, 1], or labels do not fit.
    """
    _check_images(x, labels, train)
    real, fake = net.features(train.images), net.features(x)
    pixels, real_pixels, held_pixels = (images.flatten(1) for images in (x, train.images, validation.images))
    name = net.name
    near = prdc(real, fake)
    figures = {
        f"fd_{name}": frechet_distance(fake, real),
        f"kid_{name}": kernel_distance(fake, real),
        f"precision_{name}": near.precision,
        f"recall_{name}": near.recall,
        f"density_{name}": near.density,
        f"coverage_{name}": near.coverage,
        "fd_pixels": frechet_distance(pixels, real_pixels),
        "sw2_pixels": sliced_wasserstein(pixels, real_pixels, torch.Generator().manual_seed(_SLICES_SEED)),
        "memorisation": memorisation_ratio(pixels, real_pixels, held_pixels),
    }
    if labels is not None and train.labels is not None:
        figures[f"diversity_{name}"] = diversity_ratio(fake, labels, real, train.labels)
        if isinstance(net, ClassifierNet):
            figures[f"accuracy_{name}"] = float((net.predict(x) == labels).double().mean())
    return figures


def _check_images(x: Tensor, labels: Tensor | None, train: ImageData) -> None:
    if x.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"generated images have shape {tuple(x.shape)}, real ones {tuple(train.images.shape)}; "
            "all but the first number must agree: evaluate against the data that the run was trained on"
        )
    if not float(x.abs().amax()) <= 1.0:
        raise DataError(
            f"generated values reach {float(x.abs().amax())}; they must be finite and in [-1, 1]: clamp the samples"
        )
    if labels is not None and labels.shape != x.shape[:1]:
        raise DataError(f"{tuple(labels.shape)} labels came with {len(x)} images; there must be one label an image")


@dataclass(frozen=True)
class Floors:
    """What held-out real images score in place of `count` generated ones, and how that was found."""

    values: dict[str, float]
    count: int
    description: str


def floors(train: ImageData, validation: ImageData, net: FeatureNet, count: int) -> Floors:
    """Return the figures of real held-out images against the training split, as if there were `count` of them.

    With count up to the size of the held-out split, that many of its images (chosen in proportion to the classes) are
    evaluated. With more, nothing is drawn twice; instead the figures that depend on the size are corrected for it:
    fd and the square of sw2, which grow as 1/n, are evaluated on a half and on the whole of the held-out images and
    extrapolated in 1/n to `count` (as arXiv 1911.07023 does, to infinity there); coverage, which depends on the ratio
    of the two sizes, is evaluated against a part of the training images that is as much smaller. Recall, which grows
    slowly with n, is that of all held-out images, so a little low; the others have the same mean at any n.

    Raises:
        DataError: a count that is too small for the figures.
    """
    if count <= len(validation):
        drawn = _part(validation, count)
        values = evaluate_images(drawn.images, drawn.labels, train, validation, net)
        return Floors(values, count, f"{count} held-out real images against {len(train)} training images")
    values = evaluate_images(validation.images, validation.labels, train, validation, net)
    half = _part(validation, len(validation) // 2)
    at_half = evaluate_images(half.images, half.labels, train, validation, net)
    for key in values:
        if key.startswith(("fd_", "sw2_")):
            power = 2 if key.startswith("sw2_") else 1
            ends = at_half[key] ** power, values[key] ** power
            values[key] = _extrapolated(ends, (len(half), len(validation)), count) ** (1 / power)
    fewer = _part(train, round(len(train) * len(validation) / count))
    values[f"coverage_{net.name}"] = prdc(net.features(fewer.images), net.features(validation.images)).coverage
    return Floors(
        values,
        count,
        f"{len(validation)} held-out real images against {len(train)} training images; fd and sw2 extrapolated in 1/n "
        f"to n = {count}, coverage against {len(fewer)} training images (the same ratio), recall at n = {len(validation)}",
    )


def _extrapolated(ends: tuple[float, float], sizes: tuple[int, int], count: int) -> float:
    slope = (ends[0] - ends[1]) / (1 / sizes[0] - 1 / sizes[1])
    return max(0.0, ends[1] + slope * (1 / count - 1 / sizes[1]))


def _part(data: ImageData, count: int) -> ImageData:
    if count == len(data):
        return data
    groups = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
    return data.select(held_out(groups, count))


def class_gaussian(train: ImageData, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw images from a Gaussian fitted to the pixels of each class: the trivial baseline beside a generator.

    labels: (N,) int64; returns (N, C, H, W) clamped to [-1, 1].

    Raises:
        DataError: a class asked for has fewer than two training images, or the data have no labels.
    """
    if train.labels is None:
        raise DataError("the training images have no labels; the class Gaussian needs one each: choose labelled data")
    drawn = torch.empty(len(labels), *train.images.shape[1:])
    for label in torch.unique(labels).tolist():
        members = train.images[train.labels == label]
        if len(members) < 2:
            raise DataError(
                f"class {label} has {len(members)} training images; a Gaussian needs at least two: ask for another class"
            )
        mean, chosen = members.mean(dim=0), labels == label
        # Random combinations of the centred images have exactly their covariance, whatever its rank.
        weights = torch.randn(int(chosen.sum()), len(members), generator=generator) / (len(members) - 1) ** 0.5
        drawn[chosen] = mean + (weights @ (members - mean).flatten(1)).unflatten(1, mean.shape)
    return drawn.clamp(-1, 1)
