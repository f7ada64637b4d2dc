"""The learning rate against values worked out by hand."""

from __future__ import annotations

import pytest

from rectiflow.training.options import TrainingOptions
from rectiflow.training.schedule import learning_rate


def rate(step: int, **changes: object) -> float:
    return learning_rate(step, TrainingOptions(steps=110, warmup=10, learning_rate=2.0, **changes))  # type: ignore[arg-type]


def test_warmup_rises_in_equal_parts_to_the_peak() -> None:
    assert [rate(step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])


def test_cosine_falls_from_the_peak_through_the_middle_to_the_final_fraction() -> None:
    assert [rate(step) for step in (10, 60, 110)] == pytest.approx([2.0, 1.0, 0.0])
    # cos(pi / 4) = 0.70711 a quarter of the way
    assert rate(35, final_fraction=0.5) == pytest.approx(2.0 * (0.5 + 0.5 * 0.5 * 1.7071067811865475))
    assert rate(110, final_fraction=0.25) == pytest.approx(0.5)
    assert rate(500, final_fraction=0.25) == pytest.approx(0.5)


def test_constant_stays_and_no_warmup_starts_at_the_peak() -> None:
    assert rate(109, schedule="constant") == 2.0
    assert learning_rate(0, TrainingOptions(warmup=0, learning_rate=3.0)) == 3.0
