"""A domain's study of few-step students on the page of all studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectiflow.benchmarking.measurement import FILE, read_measurements
from rectiflow.benchmarking.page import write_combined
from rectiflow.benchmarking.students import record_students
from rectiflow.benchmarking.students_layout import layout
from rectiflow.study import Entry, Study
from rectiflow.study_report import Result

STUDY = Study(
    "students",
    "digits",
    (Entry("teacher", "teacher"), Entry("good", "good <one>"), Entry("small", "small one"), Entry("far", "far off")),
    {"fd": "distance", "accuracy": "accuracy"},
    ("teacher", "euler-10"),
)


def result(entry: str, sampler: str, nfe: float, fd: float, parameters: int = 400) -> Result:
    title = next(each.title for each in STUDY.entries if each.name == entry)
    figures = {"fd": fd, "accuracy": 0.5}
    return Result(entry, title, sampler, nfe, parameters, 10.0 * nfe, figures, 0.1 * nfe, None, f"measure {sampler}")


ROWS = [
    result("teacher", "euler-1", 1, 100.0),
    result("teacher", "euler-10", 10, 4.0),
    result("good", "jump-1", 1, 3.9),
    result("good", "jump-2", 2, 3.0),
    result("small", "euler-1", 1, 5.0, parameters=100),  # 1.25 times the bar, which is just within
    result("far", "euler-1", 1, 5.1),
]


def test_findings_say_who_is_near_the_bar_who_is_best_and_how_small(tmp_path: Path) -> None:
    record_students(tmp_path, "images", STUDY, ROWS, count=64)
    near, best, small = layout(read_measurements(tmp_path / FILE)).findings
    assert near == (
        "With one evaluation 2 of 3 students are within 25 % of the bar (teacher, 10 evaluations: distance 4.00): "
        "good <one> 3.90; small one 5.00."
    )
    assert best == "The best of one evaluation is good <one>, distance 3.90: at or below the bar."
    assert small == "small one: 25 % of the teacher's parameters, distance 5.00 with one evaluation."


def test_a_later_run_of_some_entries_replaces_their_rows_alone(tmp_path: Path) -> None:
    record_students(tmp_path, "images", STUDY, ROWS, count=64)
    record_students(tmp_path, "images", STUDY, [ROWS[1], result("far", "euler-1", 1, 4.5)], count=64)
    found = read_measurements(tmp_path / FILE)
    assert len(found) == len(ROWS)
    assert {entry.cell["sampler"]: entry.figures["to_bar"] for entry in found if entry.cell["entry"] == "good"} == {
        "jump-1": pytest.approx(3.9 / 4.0),
        "jump-2": pytest.approx(3.0 / 4.0),
    }
    (far,) = (entry for entry in found if entry.cell["entry"] == "far")
    assert far.figures["to_bar"] == pytest.approx(4.5 / 4.0)
    assert "3 of 3 students" in layout(found).findings[0]


def test_without_the_bar_there_is_a_table_and_no_finding(tmp_path: Path) -> None:
    record_students(tmp_path, "images", STUDY, ROWS[2:], count=64)
    shown = layout(read_measurements(tmp_path / FILE))
    assert list(shown.findings) == []
    assert "to_bar" not in read_measurements(tmp_path / FILE)[0].figures


def test_the_combined_page_has_the_students(tmp_path: Path) -> None:
    record_students(tmp_path / "bench" / "few-step", "images", STUDY, ROWS, count=64)
    page = write_combined(tmp_path / "bench", baselines=tmp_path).read_text()
    assert '<section id="few-step' in page
    assert "good &lt;one&gt;" in page
    assert page.count("<svg") == 1
    assert "<code>measure jump-2</code>" in page
