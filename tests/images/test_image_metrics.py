"""The composition of the metrics: what real images, copies, blurs and noise score, and floors at other sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rectiflow.errors import DataError
from rectiflow_images import metrics
from rectiflow_images.classifier import Classifier, Recipe, trained
from rectiflow_images.data import ImageData, digits
from rectiflow_images.metrics import class_gaussian, evaluate_images, floors


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield trained("quick", digits()[0], Recipe(epochs=8))


class Pixels:
    """Features with closed forms: the pixels, twice as large."""

    name = "pixels2"

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.flatten(1)


KEYS = {
    *(f"{kind}_quick" for kind in ("fd", "kid", "precision", "recall", "density", "coverage", "accuracy", "diversity")),
    "fd_pixels",
    "sw2_pixels",
    "memorisation",
}


def test_held_out_digits_score_well_on_everything(net: Classifier) -> None:
    train, validation = digits()
    seen = evaluate_images(validation.images, validation.labels, train, validation, net)
    assert set(seen) == KEYS
    assert seen["accuracy_quick"] > 0.95
    assert seen["diversity_quick"] == pytest.approx(1, abs=0.05)
    assert seen["memorisation"] == pytest.approx(1)
    assert seen["precision_quick"] > 0.85


def test_copies_are_seen_by_memorisation_only(net: Classifier) -> None:
    train, validation = digits()
    seen = evaluate_images(train.images, train.labels, train, validation, net)
    assert abs(seen["fd_quick"]) < 1e-4
    assert abs(seen["sw2_pixels"]) < 1e-6
    assert seen["coverage_quick"] == 1
    assert seen["memorisation"] < 1e-4


def test_class_means_fool_accuracy_but_not_the_others(net: Classifier) -> None:
    train, validation = digits()
    labels = torch.arange(400) % 10
    means = torch.stack([train.images[train.labels == digit].mean(dim=0) for digit in range(10)])
    seen = evaluate_images(means[labels], labels, train, validation, net)
    assert seen["accuracy_quick"] > 0.98
    assert seen["diversity_quick"] < 1e-3
    assert seen["recall_quick"] == 0
    assert seen["fd_quick"] > 10 * floors(train, validation, net, 360).values["fd_quick"]


def test_labels_that_were_not_followed(net: Classifier) -> None:
    train, validation = digits()
    assert validation.labels is not None
    wrong = (validation.labels + 1) % 10
    assert evaluate_images(validation.images, wrong, train, validation, net)["accuracy_quick"] < 0.05


def test_keys_follow_the_network_and_the_labels() -> None:
    train, validation = digits()
    seen = evaluate_images(validation.images, None, train, validation, Pixels())
    assert "accuracy_pixels2" not in seen
    assert "diversity_pixels2" not in seen
    # The distance is quadratic in the features.
    assert seen["fd_pixels2"] == pytest.approx(4 * seen["fd_pixels"], rel=1e-6)
    assert "diversity_pixels2" in evaluate_images(validation.images, validation.labels, train, validation, Pixels())


def test_refused_samples(net: Classifier) -> None:
    train, validation = digits()
    for x, labels, words in (
        (torch.zeros(4, 1, 9, 9), None, "all but the first"),
        (torch.full((4, 1, 8, 8), 1.2), None, "clamp the samples"),
        (torch.full((4, 1, 8, 8), float("nan")), None, "finite"),
        (torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64), "one label an image"),
    ):
        with pytest.raises(DataError, match=words):
            evaluate_images(x, labels, train, validation, net)


class TestFloors:
    def test_within_the_held_out_images_nothing_is_corrected(self, net: Classifier) -> None:
        train, validation = digits()
        whole = floors(train, validation, net, 360)
        assert whole.values == evaluate_images(validation.images, validation.labels, train, validation, net)
        assert whole.count == 360
        assert "360 held-out" in whole.description
        # Fewer images, a larger floor: the bias that the size brings.
        assert floors(train, validation, net, 120).values["fd_quick"] > 1.5 * whole.values["fd_quick"]

    def test_extrapolation_meets_fresh_samples_of_the_same_size(self) -> None:
        # Normal pixels: the floor at n = 800 from 200 held-out images, against fresh sets of 800.
        generator = torch.Generator().manual_seed(0)

        def draw(n: int) -> ImageData:
            return ImageData((0.2 * torch.randn(n, 1, 4, 4, generator=generator)).clamp(-1, 1), None, ())

        train, repeats = draw(800), 12
        guessed = [floors(train, draw(200), Pixels(), 800).values for _ in range(repeats)]
        fresh = [evaluate_images(draw(800).images, None, train, draw(200), Pixels()) for _ in range(repeats)]
        plain = [evaluate_images(draw(200).images, None, train, draw(200), Pixels()) for _ in range(repeats)]
        for key in ("fd_pixels2", "sw2_pixels", "coverage_pixels2"):
            seen, expected, uncorrected = (
                torch.tensor([values[key] for values in runs], dtype=torch.float64) for runs in (guessed, fresh, plain)
            )
            error = float(((seen.var() + expected.var()) / repeats).sqrt())
            assert abs(float(seen.mean() - expected.mean())) < 4 * error, key
            assert abs(float(uncorrected.mean() - expected.mean())) > 4 * error, key
        for key in ("kid_pixels2", "precision_pixels2", "density_pixels2"):
            seen, expected = (torch.tensor([values[key] for values in runs]).double() for runs in (plain, fresh))
            error = float(((seen.var() + expected.var()) / repeats).sqrt())
            assert abs(float(seen.mean() - expected.mean())) < 4 * error, key

    def test_extrapolation_is_exact_for_the_law_it_assumes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def law(x: torch.Tensor, *_: object) -> dict[str, float]:
            return {"fd_pixels2": 3 + 60 / len(x), "sw2_pixels": (0.5 + 20 / len(x)) ** 0.5, "kid_pixels2": 60 / len(x)}

        monkeypatch.setattr(metrics, "evaluate_images", law)
        values = floors(*digits(), Pixels(), 900).values
        assert values["fd_pixels2"] == pytest.approx(3 + 60 / 900, rel=1e-9)
        assert values["sw2_pixels"] == pytest.approx((0.5 + 20 / 900) ** 0.5, rel=1e-9)
        assert values["kid_pixels2"] == 60 / 360

    def test_description_tells_what_was_done(self, net: Classifier) -> None:
        train, validation = digits()
        larger = floors(train, validation, net, 1440)
        assert set(larger.values) == KEYS
        assert larger.count == 1440
        assert "extrapolated in 1/n to n = 1440" in larger.description
        assert "359 training images" in larger.description


class TestClassGaussian:
    def test_moments(self, generator: torch.Generator) -> None:
        # Pixels of small spread, so that nothing is clamped: mean and covariance are those of the class.
        base = torch.rand(20, 3, generator=generator) * 0.1
        images = torch.cat([base, base - 0.5])[:, :, None, None]
        train = ImageData(images, torch.tensor([0] * 20 + [1] * 20), ("a", "b"))
        labels = torch.tensor([0, 1] * 20000)
        drawn = class_gaussian(train, labels, generator)[:, :, 0, 0]
        expected = torch.cov(base.T)
        for label, mean in ((0, base.mean(dim=0)), (1, base.mean(dim=0) - 0.5)):
            x = drawn[labels == label]
            assert torch.allclose(x.mean(dim=0), mean, atol=4 * float(expected.diagonal().max() / 20000) ** 0.5)
            # The variance of a sample variance is 2 sigma^4 / n.
            assert torch.allclose(torch.cov(x.T), expected, atol=4 * float(expected.max()) * (2 / 20000) ** 0.5)

    def test_beats_noise_and_loses_to_real_images(self, net: Classifier, generator: torch.Generator) -> None:
        train, validation = digits()
        labels = torch.arange(360) % 10
        noise = torch.randn(360, 1, 8, 8, generator=generator).clamp(-1, 1)
        values = [
            evaluate_images(x, labels, train, validation, net)["fd_quick"]
            for x in (validation.images, class_gaussian(train, labels, generator), noise)
        ]
        assert 2 * values[0] < values[1] < values[2] / 2

    def test_refused(self, generator: torch.Generator) -> None:
        unlabelled = ImageData(torch.zeros(3, 1, 2, 2), None, ())
        with pytest.raises(DataError, match="no labels"):
            class_gaussian(unlabelled, torch.tensor([0]), generator)
        single = ImageData(torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 1]), ("a", "b"))
        with pytest.raises(DataError, match="class 1 has 1"):
            class_gaussian(single, torch.tensor([1]), generator)
