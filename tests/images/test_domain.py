"""Images as the core sees them: conditions in the data's proportions, pictures, artefacts, what a flow may be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rectiflow.config import compose_training
from rectiflow.domain import build, load_spec
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.sampling import integrate
from rectiflow_images.domain import Images, to_bytes

SPEC = load_spec("images")


def domain(*overrides: str) -> Images:
    built = build(SPEC, compose_training(SPEC, list(overrides)))
    assert isinstance(built, Images)
    return built


def coloured_folder(root: Path, sizes: dict[str, int]) -> Path:
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            shade = np.full((12, 12, 3), (20 * number) % 255, dtype=np.uint8)
            Image.fromarray(shade).save(root / name / f"{number}.png")
    return root


def test_labels_come_in_the_proportions_of_the_data(tmp_path: Path) -> None:
    folder = coloured_folder(tmp_path / "pictures", {"few": 10, "many": 30})
    images = domain("data=folder", f"data.path={folder}", "data.size=8")
    train = images.splits[0]
    share = float((train.labels == 1).double().mean())
    for seed in range(5):
        labels = images.conditions(101, torch.Generator().manual_seed(seed))["label"]
        assert abs(int((labels == 1).sum()) - 101 * share) <= 1
    first, again = (images.conditions(50, torch.Generator().manual_seed(3))["label"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, first.sort().values)


def test_labels_asked_for() -> None:
    images = domain()
    generator = torch.Generator().manual_seed(0)
    assert images.conditions(5, generator, label=[3, "7"])["label"].tolist() == [3, 7, 3, 7, 3]
    for wrong in (10, -1, "ten", True):
        with pytest.raises(ConfigError, match="0 to 9"):
            images.conditions(2, generator, label=wrong)


def test_batches_are_rows_of_the_split() -> None:
    images = domain()
    data = images.dataset("validation")
    batch = data.__getitems__([5, 2])
    assert torch.equal(batch.x1[1], data.data.images[2])
    assert batch.cond["label"].tolist() == [int(data.data.labels[5]), int(data.data.labels[2])]
    with pytest.raises(ConfigError, match="train, validation"):
        images.dataset("test")


def test_pictures_show_the_samples_in_order(tmp_path: Path) -> None:
    images = domain()
    levels = torch.linspace(-1, 1, 20).reshape(20, 1, 1, 1).expand(20, 1, 8, 8)
    canvas = np.asarray(images.picture(levels, {}))
    side = 8 * 8 + 4
    centres = [canvas[4 + 32 + row * side, 4 + 32 + column * side] for row in range(2) for column in range(10)]
    assert np.allclose(centres, np.linspace(0, 255, 20), atol=0.51)
    files = images.save(levels, {"label": torch.arange(20) % 10}, tmp_path)
    assert [path.name for path in files[:2]] == ["00000-0.png", "00001-1.png"]
    with Image.open(files[19]) as last:
        assert last.size == (8, 8)
        assert int(np.asarray(last)[0, 0]) == 255


def test_bytes_of_values_outside_the_range() -> None:
    assert to_bytes(torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).reshape(5, 1, 1, 1)).ravel().tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]


def test_flow_has_a_score_only_where_it_exists() -> None:
    x, t, label = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5), torch.tensor([1, 2])
    independent = domain()
    network = independent.network(torch.Generator().manual_seed(0))
    assert independent.flow(network).score(x, t, label=label).shape == x.shape
    coupled = domain("coupling=minibatch_ot")
    with pytest.raises(ConversionError):
        coupled.flow(network).score(x, t, label=label)


def test_real_images_score_like_the_floor_and_noise_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = domain()
    _, validation = images.splits
    floor, baseline = images.references(360, 0)
    figures = images.evaluate(validation.images, {"label": validation.labels})
    assert figures["fd_digitsnet"] == pytest.approx(floor.metrics["fd_digitsnet"], rel=1e-6)
    assert {metric.name for metric in images.metrics} == set(figures)
    noise = torch.randn(360, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert images.evaluate(noise, {"label": validation.labels})["fd_digitsnet"] > 20 * figures["fd_digitsnet"]
    assert floor.metrics["fd_digitsnet"] < baseline.metrics["fd_digitsnet"]


def test_a_run_that_never_dropped_its_labels_cannot_be_guided() -> None:
    x, label = torch.zeros(2, 1, 8, 8), torch.tensor([1, 2])
    for drop, guided in (("0.1", True), ("0", False)):
        images = domain(f"condition_drop={drop}")
        flow = images.flow(images.network(torch.Generator().manual_seed(0)))
        if guided:
            assert integrate(flow, x, steps=1, cond={"label": label}, guidance=2.0).nfe == 2
        else:
            with pytest.raises(ConfigError, match="condition_drop above 0"):
                integrate(flow, x, steps=1, cond={"label": label}, guidance=2.0)
