"""Conditions: what shapes are told of, what may be asked for, and which of it is left out in training."""

from __future__ import annotations

import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow_shapes.asked import conditions_of, null_conditions, requested, spread_conditions
from rectiflow_shapes.batches import ShapeDataset
from rectiflow_shapes.conditions import FREE, LONGEST_CAPTION, VOCABULARY, attribute_rows, kind_index, words
from rectiflow_shapes.shape_data import ShapeData

ALL = ("kind", "attributes", "caption")
KINDS = ("chair", "mug", "table")


@pytest.fixture
def data() -> ShapeData:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    units = [{"height": 0.1 * i} | ({"wall": 0.5} if label == 1 else {}) for i, label in enumerate(labels.tolist())]
    captions = tuple(f"a {KINDS[label]} number {i}" for i, label in enumerate(labels.tolist()))
    names = ("height", "wall")
    return ShapeData("test", KINDS, labels, names, attribute_rows(units, names), captions, {}, lambda _: None)  # type: ignore[arg-type, return-value]


def test_words_are_numbered_without_case_and_marks() -> None:
    assert torch.equal(words("A low, ROUND table"), words("a low round table"))
    assert not torch.equal(words("a low round table"), words("a low square table"))
    many = words("word " * 40)
    assert many.shape == (LONGEST_CAPTION,)
    assert bool((many > 0).all())
    assert bool((many < VOCABULARY).all())
    assert words("").tolist() == [0] * LONGEST_CAPTION


def test_attributes_that_a_shape_lacks_are_free(data: ShapeData) -> None:
    assert data.attributes[0].tolist() == pytest.approx([0.0, FREE])
    assert data.attributes[4].tolist() == pytest.approx([0.4, 0.5])


def test_spread_conditions_are_those_of_shapes_in_equal_shares(data: ShapeData) -> None:
    cond = spread_conditions(data, ALL, 100, torch.Generator().manual_seed(0))
    counts = torch.bincount(cond["kind"])
    assert counts.max() - counts.min() <= 1
    rows = conditions_of(data, ALL, torch.arange(len(data)))
    for n in range(100):  # every row is one whole shape's
        same = (rows["kind"] == cond["kind"][n]) & (rows["attributes"] == cond["attributes"][n]).all(1)
        assert bool((same & (rows["caption"] == cond["caption"][n]).all(1)).any())
    assert list(spread_conditions(data, ("kind",), 3, torch.Generator().manual_seed(0))) == ["kind"]


def test_requests(data: ShapeData) -> None:
    generator = torch.Generator().manual_seed(0)
    cond = requested(data, ALL, 4, generator, {"kind": ["mug", 0]})
    assert cond["kind"].tolist() == [1, 0, 1, 0]
    assert bool((cond["attributes"] == FREE).all())
    assert bool((cond["caption"] == 0).all())
    cond = requested(data, ALL, 2, generator, {"caption": "a low chair", "attributes": {"height": 0.2}})
    assert cond["kind"].tolist() == [3, 3]  # nothing said
    assert cond["attributes"].tolist() == [[pytest.approx(0.2), FREE]] * 2
    assert torch.equal(cond["caption"][1], words("a low chair"))
    assert torch.bincount(requested(data, ("kind",), 6, generator, {"kind": None})["kind"]).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("told", "request_", "message"),
    [
        (("kind",), {"caption": "a mug"}, "told kind; train one with model.told"),
        (ALL, {"kind": "spoon"}, "cond.kind=spoon is unknown; allowed: chair, mug, table"),
        (ALL, {"kind": 3}, "cond.kind=3 is unknown"),
        (ALL, {"attributes": {"depth": 0.1}}, "cond.attributes.depth is unknown; allowed: height, wall"),
        (ALL, {"attributes": {"height": 1.5}}, r"height=1.5 is not allowed"),
        (ALL, {"attributes": 0.5}, "give them by name"),
    ],
)
def test_wrong_requests(data: ShapeData, told: tuple[str, ...], request_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        requested(data, told, 1, torch.Generator(), request_)
    assert kind_index("mug", KINDS) == 1


def test_training_meets_shapes_with_less_and_less_said(data: ShapeData) -> None:
    states = torch.arange(7.0)[:, None, None]
    only_kind = ShapeDataset(states, data, ("kind",))
    assert len(only_kind) == 7
    whole = ShapeDataset(states, data, ALL)
    batch = whole.__getitems__(list(range(7)))
    rows = conditions_of(data, ALL, torch.arange(7))
    assert all(torch.equal(batch.cond[name], rows[name]) for name in ALL)
    partly = whole.__getitems__(list(range(7, len(whole))))
    assert torch.equal(partly.x1[:, 0, 0], torch.arange(7, len(whole)) % 7.0)
    nothing = null_conditions(data, ALL)
    assert nothing == {"kind": 3, "attributes": FREE, "caption": 0}
    left_out = (partly.cond["kind"] == 3).float().mean()
    assert 0.2 < left_out < 0.8
    # What is still said is true.
    source = torch.arange(7, len(whole)) % 7
    kept = partly.cond["kind"] != 3
    assert torch.equal(partly.cond["kind"][kept], data.labels[source][kept])
    again = whole.__getitems__(list(range(7, len(whole))))
    assert all(torch.equal(again.cond[name], partly.cond[name]) for name in ALL)
