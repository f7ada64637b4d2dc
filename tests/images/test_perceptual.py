"""The perceptual distance of images: a distance, of what the network sees and not of pixels, with a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.batch import Batch
from rectiflow.config import compose_training
from rectiflow.domain import Domain, build, load_spec
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.creation import asks_perceptual, create_method
from rectiflow.rectify.one_step import OneStep
from rectiflow.rectify.online import Online
from rectiflow.rectify.rectified_flow import RectifiedFlow
from rectiflow_images.classifier import Classifier, Recipe, trained
from rectiflow_images.data import ImageData, digits
from rectiflow_images.domain import Images
from rectiflow_images.features import EfficientNetLite0
from rectiflow_images.perceptual import feature_distance


@pytest.fixture(autouse=True)
def single(float32: None) -> None:
    """Networks are tested in the dtype that they train in."""


@pytest.fixture(scope="module")
def validation() -> ImageData:
    return digits()[1]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield trained("digitsnet", digits()[0], Recipe(epochs=3))


@pytest.fixture
def images(net: Classifier) -> Images:
    spec = load_spec("images")
    built = build(spec, compose_training(spec, []))
    assert isinstance(built, Images)
    built.__dict__["feature_net"] = net
    return built


def test_by_hand() -> None:
    """Two layers, one with two places and one with none: unit vectors at right angles are 2 apart, opposite ones 4."""

    def maps(x: Tensor) -> list[Tensor]:
        return [x[:, :, :, :2], x[:, :, 0, 2]]

    x = torch.zeros(1, 2, 1, 3)
    target = torch.zeros(1, 2, 1, 3)
    x[0, :, 0, 0], target[0, :, 0, 0] = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 70.0])
    x[0, :, 0, 1], target[0, :, 0, 1] = torch.tensor([30.0, 40.0]), torch.tensor([6.0, 8.0])
    x[0, :, 0, 2], target[0, :, 0, 2] = torch.tensor([9.0, 0.0]), torch.tensor([-9.0, 0.0])
    assert float(feature_distance(maps, x, target)) == pytest.approx(((2 + 0) / 2 + 4) / 2, abs=1e-4)


def test_a_distance(images: Images, validation: ImageData) -> None:
    x, y = validation.images[:60], validation.images[60:120]
    assert torch.equal(images.perceptual(x, x), torch.zeros(60))
    assert torch.equal(images.perceptual(x, y), images.perceptual(y, x))
    apart = images.perceptual(x, y)
    assert apart.shape == (60,)
    assert (apart > 0.02).all()
    assert (apart <= 2).all()
    assert torch.allclose(images.perceptual(x[:3], y[:3]), apart[:3], atol=1e-6)  # sample by sample


def test_it_sees_classes_where_pixels_see_strokes(images: Images, validation: ImageData) -> None:
    """Of the same and another class, the distance tells apart more clearly (1.7 to 1.5) than the mean square of pixels does."""
    x, labels = validation.images[:200], validation.labels[:200]  # type: ignore[index]
    first, second = torch.triu_indices(200, 200, 1)
    same = labels[first] == labels[second]

    def clearness(found: Tensor) -> float:
        return float((found[~same].mean() - found[same].mean()) / found.std())

    pixels = (x[first] - x[second]).square().flatten(1).mean(1)
    assert clearness(images.perceptual(x[first], x[second])) > 1.05 * clearness(pixels)


def test_its_gradient_leads_to_the_image_and_is_finite_on_blank_ones(images: Images, validation: ImageData) -> None:
    target = validation.images[:8]
    x = torch.full_like(target, -1.0).requires_grad_()
    before = images.perceptual(x, target)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    x = (target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    before = images.perceptual(x, target)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    after = images.perceptual(x - 0.2 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None], target)
    assert (after < before).all()
    assert not images.perceptual(target, x).requires_grad  # what is aimed at has none


def test_colour_has_the_layers_of_its_network() -> None:
    net = EfficientNetLite0()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    layers = net.maps(x)
    assert [layer.shape[-1] for layer in layers] == [48, 24, 12, 6, 3]
    moved = x.clone().requires_grad_()
    distance = feature_distance(net.maps, moved, x.flip(3))
    assert ((distance > 0) & (distance < 4)).all()
    (gradient,) = torch.autograd.grad(distance.sum(), moved)
    assert gradient.abs().max() > 0
    with pytest.raises(ConfigError, match="must be \\(N, 3, H, W\\)"):
        net.maps(x[:, :1])


RECTIFIED: dict[str, Any] = {"_target_": "rectiflow.rectify.rectified_flow.RectifiedFlow"}


def test_methods_get_it_from_the_domain(images: Images, validation: ImageData) -> None:
    method = create_method(images, {**RECTIFIED, "perceptual": True})
    assert isinstance(method, RectifiedFlow)
    x1 = validation.images[:4]
    pairs = Batch(x1=x1, x0=torch.randn(x1.shape, generator=torch.Generator().manual_seed(0)))
    _, terms = method.loss(Flow(lambda x, t: torch.zeros_like(x)), pairs, torch.Generator().manual_seed(1))
    assert float(terms["perceptual"]) > 0.05
    _, terms = method.loss(Flow(lambda x, t: pairs.x1 - pairs.x0), pairs, torch.Generator().manual_seed(1))  # type: ignore[operator]
    assert float(terms["perceptual"]) < 1e-6
    one = {"_target_": "rectiflow.rectify.one_step.OneStep", "perceptual": True}
    inner = create_method(images, {"_target_": "rectiflow.rectify.online.Online", "method": one})
    assert isinstance(inner, Online)
    assert isinstance(inner.method, OneStep)
    assert inner.method.perceptual == images.perceptual
    for asked in (None, False):
        assert create_method(images, {**RECTIFIED, "perceptual": asked}).perceptual is None  # type: ignore[attr-defined]
    assert asks_perceptual({**RECTIFIED, "perceptual": True})
    assert asks_perceptual({"method": one})
    assert not asks_perceptual({**RECTIFIED, "perceptual": None})
    with pytest.raises(ConfigError, match="perceptual is 'lpips'; allowed: true"):
        create_method(images, {**RECTIFIED, "perceptual": "lpips"})


def test_a_domain_without_one_says_so(images: Images) -> None:
    with pytest.raises(ConfigError, match=r"has no perceptual distance; use method\.perceptual=null"):
        Domain.perceptual(images, torch.zeros(1), torch.zeros(1))
