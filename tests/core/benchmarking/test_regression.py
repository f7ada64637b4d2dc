"""Better, worse or the same as a stored baseline, and normalised quality, against hand-made numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import pytest

from rectiflow.benchmarking.layout import Watch
from rectiflow.benchmarking.measurement import Measurement
from rectiflow.benchmarking.normalised import normalised
from rectiflow.benchmarking.regression import compare, keep_baseline, verdict
from rectiflow.errors import DataError

WATCHED = {"quality": Watch("higher", relative=0.1, absolute=0.05), "overhead": Watch("lower", relative=0.2)}


def cell(name: str, count: int = 8, **figures: float) -> Measurement:
    return Measurement("domains", {"domain": name, "nfe": 2.0}, figures, "command", count=count)


@pytest.mark.parametrize(
    ("better", "before", "after", "expected"),
    [
        ("higher", 1.0, 1.14, "same"),  # allowed: 0.05 + 0.1
        ("higher", 1.0, 1.16, "better"),
        ("higher", 1.0, 0.86, "same"),
        ("higher", 1.0, 0.84, "worse"),
        ("lower", 1.0, 0.84, "better"),
        ("lower", 1.0, 1.16, "worse"),
        ("higher", -1.0, -1.16, "worse"),
        ("higher", 1.0, math.nan, "gone"),
    ],
)
def test_a_change_counts_beyond_what_is_allowed(
    better: Literal["higher", "lower"], before: float, after: float, expected: str
) -> None:
    assert verdict(Watch(better, relative=0.1, absolute=0.05), before, after) == expected


def test_a_baseline_is_kept_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "domains.json"
    stored = [
        cell("images", quality=0.9, overhead=1.0, other=3.0),
        cell("shapes", quality=0.5, overhead=math.nan),
        cell("audio", count=4, quality=0.5),
        cell("robotics", quality=0.4),
    ]
    assert keep_baseline(path, stored, WATCHED) == 5  # neither NaN nor what is not watched
    now = [cell("images", quality=0.91, overhead=1.5), cell("shapes", quality=0.9), cell("audio", quality=0.5)]
    found = {(change.label, change.figure): change.verdict for change in compare(path, now, WATCHED)}
    assert found == {
        ("images, 2", "quality"): "same",
        ("images, 2", "overhead"): "worse",
        ("shapes, 2", "quality"): "better",
        ("audio, 2", "quality"): "gone",  # measured with another number of samples
        ("robotics, 2", "quality"): "gone",
    }
    assert compare(tmp_path / "none.json", now, WATCHED) == []


@pytest.mark.parametrize("text", ["{", "[1]", json.dumps([{"figure": "quality"}]), "3"])
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "domains.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not a baseline"):
        compare(path, [], WATCHED)


def test_normalised_quality_is_the_share_of_the_way_from_baseline_to_floor() -> None:
    assert normalised(2.0, floor=2.0, baseline=50.0, better="lower") == 1
    assert normalised(50.0, floor=2.0, baseline=50.0, better="lower") == 0
    assert normalised(14.0, floor=2.0, baseline=50.0, better="lower") == pytest.approx(0.75)
    assert normalised(98.0, floor=2.0, baseline=50.0, better="lower") == pytest.approx(-1)
    assert normalised(0.7, floor=0.9, baseline=0.1, better="higher") == pytest.approx(0.75)
    assert normalised(1.2, floor=1.0, baseline=3.0, better="one") == pytest.approx(0.9)
    assert normalised(0.8, floor=1.1, baseline=3.0, better="one") == pytest.approx((2 - 0.2) / (2 - 0.1))
    for floor, baseline in ((0.1, 0.9), (0.5, 0.5), (math.nan, 0.1), (0.9, math.nan)):
        assert math.isnan(normalised(0.7, floor, baseline, "higher"))
