from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow.metrics import frechet_distance
from rectiflow_images import features
from rectiflow_images.classifier import Classifier, Recipe, trained
from rectiflow_images.data import ImageData, digits
from rectiflow_images.features import EfficientNetLite0

QUICK = Recipe(epochs=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    return tmp_path / "images" / "classifiers"


@pytest.fixture(scope="module")
def digitsnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield trained("digitsnet", digits()[0])


def test_held_out_accuracy(digitsnet: Classifier) -> None:
    validation = digits()[1]
    assert float((digitsnet.predict(validation.images) == validation.labels).float().mean()) >= 0.98


def test_features_are_the_layer_before_the_logits(digitsnet: Classifier) -> None:
    images = digits()[1].images
    found = digitsnet.features(images)
    assert found.shape == (360, 64)
    assert not found.requires_grad
    assert torch.allclose(digitsnet.head(found).argmax(dim=1), digitsnet.predict(images))
    assert float(found.min()) >= 0


def test_frechet_scale(digitsnet: Classifier, generator: torch.Generator) -> None:
    # Published figures stand on this scale: real held-out digits a few units away, noise hundreds.
    train, validation = digits()
    real = digitsnet.features(train.images)
    floor = frechet_distance(digitsnet.features(validation.images), real)
    noise = frechet_distance(digitsnet.features(torch.randn(1440, 1, 8, 8, generator=generator)), real)
    assert 3 < floor < 20
    assert 300 < noise < 1500


def test_training_is_repeatable_and_leaves_global_state_alone(cache: Path) -> None:
    train = digits()[0]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = trained("net", train, QUICK)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    for file in cache.iterdir():
        file.unlink()
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        second = trained("net", train, QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_no_gradients_around_it_are_needed(cache: Path) -> None:
    with torch.no_grad():
        trained("net", digits()[0], QUICK)


def test_cache_is_used_keyed_by_data_and_recipe_and_repaired(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = digits()[0]
    first = trained("net", train, QUICK)
    (file,) = cache.iterdir()
    stamp = file.stat().st_mtime_ns
    again = trained("net", train, QUICK)
    assert file.stat().st_mtime_ns == stamp
    assert torch.equal(first.head.weight, again.head.weight)
    flipped = train.images.clone()
    flipped[3, 0, 4, 4] += 0.125 if flipped[3, 0, 4, 4] < 0 else -0.125
    trained("net", ImageData(flipped, train.labels, train.class_names), QUICK)
    trained("net", train, dataclasses.replace(QUICK, seed=1))
    assert len(list(cache.iterdir())) == 3
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(trained("net", train, QUICK).head.weight, first.head.weight)
    assert file.stat().st_size > 100


def test_other_sizes_and_channels(cache: Path, generator: torch.Generator) -> None:
    for channels, size in ((3, 32), (1, 14), (1, 28), (1, 9)):
        images = torch.rand(8, channels, size, size, generator=generator) * 2 - 1
        data = ImageData(images, torch.arange(8) % 3, ("a", "b", "c"))
        assert trained("net", data, QUICK).features(images).shape == (8, 64)


def test_data_it_cannot_learn_from(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no labels"):
        trained("net", ImageData(torch.zeros(2, 1, 8, 8), None, ()))
    with pytest.raises(ConfigError, match="8 x 6"):
        trained("net", ImageData(torch.zeros(2, 1, 8, 6), torch.zeros(2, dtype=torch.int64), ("a",)))


@pytest.fixture(scope="module")
def net() -> EfficientNetLite0:
    before = torch.get_rng_state()
    network = EfficientNetLite0()
    assert torch.equal(before, torch.get_rng_state())
    return network


class TestEfficientNet:
    def test_knows_a_daisy(self, net: EfficientNetLite0) -> None:
        from sklearn.datasets import load_sample_images

        flower = torch.from_numpy(load_sample_images().images[1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        large = torch.nn.functional.interpolate(flower, (224, 224), mode="bicubic", antialias=True).clamp(-1, 1)
        with torch.no_grad():
            assert int(net._network(large).argmax()) == 985  # ImageNet's daisy

    def test_features(self, net: EfficientNetLite0, generator: torch.Generator) -> None:
        x = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
        found = net.features(x)
        assert found.shape == (3, 1280)
        assert torch.allclose(net.features(x[1:2]), found[1:2], atol=1e-4)
        assert not torch.allclose(found[0], found[1], atol=1e-2)

    @pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (3, 32, 32)])
    def test_refuses_small_and_grey(self, net: EfficientNetLite0, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="at least 32"):
            net.features(torch.zeros(shape))

    def test_absent_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
        with pytest.raises(MissingDependency, match=r"rectiflow\[images\]"):
            EfficientNetLite0()

    def test_other_weights(self, tmp_path: Path) -> None:
        (tmp_path / "weights.pth").write_bytes(b"pickle")
        with pytest.raises(DataError, match="sha256"):
            features._weights(tmp_path / "weights.pth")
