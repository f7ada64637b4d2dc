"""The few-step table of benchmarks/README.md is what the stored study gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import few_step_table
import pytest

from rectiflow.errors import DataError

ROOT = Path(__file__).parents[1]


def row(entry: str, sampler: str, nfe: float, fd: float, parameters: int = 400) -> dict[str, Any]:
    return {
        "entry": entry, "title": entry.title(), "sampler": sampler, "nfe": nfe, "parameters": parameters,
        "training_seconds": 10.0, "metrics": {"fd_digitsnet": fd}, "milliseconds": 0.1, "strip": "/home/me/strip.png",
        "command": "rectiflow evaluate images run=/home/me", "teacher_evaluations": 384_000.0,
    }  # fmt: skip


FOUND: dict[str, Any] = {
    "machine": {"cpu": "some processor", "torch": "2"}, "updates": 1500, "pairs": 16000, "count": 1440, "jobs": 2,
    "cpu_seconds": {"teacher": 100.0, "reflow": 200.0}, "minutes": 33.5,
    "rows": [
        row("teacher", "euler-4", 4, 16.0), row("teacher", "euler-10", 10, 4.0), row("boss", "boss-4", 4, 12.0),
        row("reflow", "euler-1", 1, 5.0), row("one_step", "euler-1", 1, 4.5), row("slim_flow", "euler-1", 1, 8.5, 100),
    ],
}  # fmt: skip


def test_readme_holds_the_table_of_the_stored_study() -> None:
    assert few_step_table.main(["--check"]) == 0, "run python benchmarks/few_step_table.py"


def test_what_is_said_of_the_bars() -> None:
    lines = few_step_table.block(FOUND).splitlines()
    assert "33.5 minutes from an empty folder, 300 s of processor time" in " ".join(lines)
    assert "at most 384 k" in " ".join(lines)
    assert [line for line in lines if line.startswith("- ")] == [
        "- With one evaluation 2 of 3 students are within 25 % of the teacher's ten (fd 4.00): One_Step 4.50, Reflow 5.00. "
        "The best is above it.",
        "- Slim_Flow: 25 % of the parameters, fd 8.50, above twice the bar.",
        "- BOSS's grid of four steps against the uniform one: 12.00 against 16.00.",
    ]
    better = {
        **FOUND,
        "rows": [*FOUND["rows"][:3], row("reflow", "euler-1", 1, 4.0), row("slim_flow", "euler-1", 1, 8, 100)],
    }
    assert "The best is at or below it." in few_step_table.block(better)
    assert "fd 8.00, at or below twice the bar." in few_step_table.block(better)
    assert "continued, 300 s" in few_step_table.block({**FOUND, "minutes": None})


def test_a_study_is_stored_without_the_paths_of_its_machine(tmp_path: Path) -> None:
    study, results = tmp_path / "few-step", tmp_path / "results"
    study.mkdir()
    results.mkdir()
    with pytest.raises(DataError, match=r"holds no results\.json; run"):
        few_step_table.store(study, results)
    (study / "results.json").write_text(json.dumps(FOUND))
    (study / "few_steps.png").write_bytes(b"a figure")
    few_step_table.store(study, results)
    assert "/home/me" not in (results / "few_steps.json").read_text()
    assert (results / "few_steps.png").read_bytes() == b"a figure"
    stored = json.loads((results / "few_steps.json").read_text())
    assert few_step_table.block(stored) == few_step_table.block(FOUND)
