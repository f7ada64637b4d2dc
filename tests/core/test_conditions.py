"""Null values, per-sample dropping and row bookkeeping of conditions."""

from __future__ import annotations

import math

import pytest
import torch

from rectiflow.conditions import concatenate, drop, null_like, take
from rectiflow.errors import ConfigError


def test_null_values_replace_only_what_they_name() -> None:
    cond = {"label": torch.tensor([3, 1]), "text": torch.randn(2, 4), "scale": torch.tensor([0.5, 2.0])}
    empty = null_like(cond, {"label": 10, "text": torch.arange(4.0)})
    assert empty["label"].tolist() == [10, 10]
    assert empty["label"].dtype is torch.int64
    assert torch.equal(empty["text"], torch.arange(4.0).expand(2, 4))
    assert torch.equal(empty["scale"], cond["scale"])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_null_values_take_the_dtype_of_what_they_replace(dtype: torch.dtype) -> None:
    empty = null_like({"value": torch.ones(2, 3, dtype=dtype)}, {"value": 7})
    assert empty["value"].dtype is dtype
    assert empty["value"].shape == (2, 3)


def test_null_values_for_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\['label'\].*\['text'\]"):
        null_like({"label": torch.zeros(2)}, {"text": 0})


def test_drop_rate_is_the_probability_and_one_coin_serves_a_sample() -> None:
    n, p = 20_000, 0.3
    cond = {"label": torch.arange(n), "text": torch.ones(n, 2), "kept": torch.arange(n)}
    dropped = drop(cond, {"label": -1, "text": 0.0}, p, torch.Generator().manual_seed(0))
    gone = dropped["label"] == -1
    assert abs(float(gone.double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert torch.equal(gone, dropped["text"][:, 0] == 0)
    assert torch.equal(gone, dropped["text"][:, 1] == 0)
    assert torch.equal(dropped["label"][~gone], cond["label"][~gone])
    assert torch.equal(dropped["kept"], cond["kept"])
    lag_one = torch.corrcoef(torch.stack([gone[:-1].double(), gone[1:].double()]))[0, 1]
    assert abs(float(lag_one)) < 4 / math.sqrt(n)


def test_drop_at_the_ends_of_its_range() -> None:
    cond = {"label": torch.arange(50)}
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(drop(cond, {"label": -1}, 0.0, generator)["label"], cond["label"])
    assert bool((drop(cond, {"label": -1}, 1.0, generator)["label"] == -1).all())
    assert drop({"other": torch.arange(3)}, {"label": -1}, 1.0, generator)["other"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_a_drop_probability_outside_the_unit_interval_is_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match=str(probability)):
        drop({"label": torch.zeros(1)}, {"label": 0}, probability)


def test_concatenate_and_take_keep_rows_together() -> None:
    first = {"label": torch.tensor([0, 1]), "text": torch.tensor([[0.0], [1.0]])}
    second = {"label": torch.tensor([2, 3]), "text": torch.tensor([[2.0], [3.0]])}
    rows = take(concatenate(first, second), torch.tensor([3, 0]))
    assert rows["label"].tolist() == [3, 0]
    assert rows["text"].flatten().tolist() == [3.0, 0.0]
