"""`rectiflow bench few-step`: what it runs, that it continues, and what it leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from rectiflow.benchmarking.measurement import FILE, read_measurements
from rectiflow.cli import main
from rectiflow.rectify.settings import METHODS
from rectiflow.study import Study
from rectiflow.study_report import Result, markdown_table, write_study
from rectiflow_images import SPEC
from rectiflow_images.few_step import FEW_STEP
from rectiflow_images.unet import UNet

RESULTS = [
    Result("teacher", "teacher", "euler-1", 1, 650_000, 100.0, {"fd_digitsnet": 200.0}, 0.1),
    Result("teacher", "teacher", "euler-10", 10, 650_000, 100.0, {"fd_digitsnet": 5.0}, 1.0),
    Result(
        "reflow",
        "reflow (2-RF)",
        "euler-1",
        1,
        650_000,
        321.4,
        {"fd_digitsnet": 6.0, "accuracy_digitsnet": 0.98},
        0.1,
        teacher_evaluations=384_000,
    ),
]


def test_the_study_names_methods_and_entries_that_exist() -> None:
    assert isinstance(FEW_STEP, Study)
    assert SPEC.studies == {"few-step": "rectiflow_images.few_step:FEW_STEP"}
    names = [entry.name for entry in FEW_STEP.entries]
    assert len(set(names)) == len(names)
    assert {stage.method for entry in FEW_STEP.entries for stage in entry.stages} <= METHODS.keys()
    for entry in FEW_STEP.entries:
        assert math.isclose(sum(stage.share for stage in entry.stages), 1.0) or not entry.stages
    bar, sampler = FEW_STEP.bar
    assert sampler in next(entry.samplers for entry in FEW_STEP.entries if entry.name == bar)


def test_the_slim_student_has_at_most_a_quarter_of_the_teachers_parameters() -> None:
    (slim,) = (entry for entry in FEW_STEP.entries if entry.name == "slim_flow")
    given = dict(text.split("=") for text in slim.stages[0].settings)
    sizes = {key.removeprefix("model."): int(value) for key, value in given.items() if key.startswith("model.")}
    teacher, student = (
        sum(parameter.numel() for parameter in UNet(1, 8, 10, **size, generator=torch.Generator()).parameters())
        for size in ({}, sizes)
    )
    assert teacher == 653_601
    assert 0.2 * teacher < student <= 0.25 * teacher


def test_table_figure_and_page(tmp_path: Path) -> None:
    table = markdown_table(FEW_STEP, RESULTS).splitlines()
    assert table[0].startswith("| method | sampler | NFE | fd | KID |")
    assert table[-1] == "| reflow (2-RF) | euler-1 | 1 | 6 | nan | nan | 0.98 | 0.10 | 0.65 M | 321 | 384 k |"
    page = write_study(tmp_path, FEW_STEP, RESULTS, title="study <digits>", facts={"minutes": 33.5})
    assert "study &lt;digits&gt;" in page.read_text()
    assert "http" not in page.read_text()
    with Image.open(tmp_path / "few_steps.png") as figure:
        assert figure.size[0] > 800
    written = json.loads((tmp_path / "results.json").read_text())
    assert len(written["rows"]) == 3
    assert written["minutes"] == 33.5


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, says in [
        (["few-steps"], "study 'few-steps' is unknown; allowed: domains, "),
        (["few-step", "updates=0"], "updates=0 is not allowed"),
        (["few-step", "methods=[reflaw]"], "method 'reflaw' is not in this study; allowed: teacher, "),
        (["few-step", "update=3"], "did you mean updates"),
    ]:
        capsys.readouterr()
        assert main(["bench", *arguments]) == 2
        assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["bench", "few-step", "--help"]) == 0
    assert "updates: 1500" in capsys.readouterr().out


@pytest.mark.slow
def test_it_runs_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    methods = "methods=[teacher,boss,instaflow,shortcut,phased]"
    command = ["bench", "few-step", "updates=5", "pairs=100", "count=40", "teacher=['training.steps=5']", methods]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert first.count("rectiflow distill") == 4
    place = tmp_path / "runs/images/few-step"
    spent = json.loads((place / "cpu_seconds.json").read_text())
    assert {"teacher", "pairs", "instaflow", "shortcut", "phased", "evaluation"} <= spent.keys()
    recorded = read_measurements(tmp_path / "runs/bench/few-step" / FILE)
    assert {entry.cell["entry"] for entry in recorded} == {"teacher", "boss", "instaflow", "shortcut", "phased"}
    assert all(entry.command.startswith("rectiflow evaluate images") for entry in recorded)
    written = json.loads((place / "results.json").read_text())
    assert written["minutes"] > 0
    assert written["cpu_seconds"] == spent
    rows = written["rows"]
    assert {(row["sampler"], row["nfe"]) for row in rows if row["entry"] == "shortcut"} == {
        ("jump-1", 1),
        ("jump-2", 2),
        ("jump-4", 4),
    }
    assert all(row["training_seconds"] > 0 and row["milliseconds"] > 0 for row in rows if row["entry"] == "shortcut")
    asked = {row["entry"]: row["teacher_evaluations"] for row in rows}
    grid = 100 * 256
    # Five updates of 128, of which three stages of InstaFlow ask none; its 100 pairs take 24 each.
    assert asked["shortcut"] == pytest.approx(5 * 128 * 0.25, abs=5)
    assert asked == {"teacher": 0, "boss": 2 * grid, "instaflow": 2400, "phased": 5 * 128 * 2 + grid} | {
        "shortcut": asked["shortcut"]
    }
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "rectiflow distill" not in again
    assert "rectiflow evaluate" not in again
    assert json.loads((place / "results.json").read_text())["minutes"] is None  # of what was there already
