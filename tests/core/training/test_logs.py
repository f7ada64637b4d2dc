"""Every logging step leaves one line, and a resumed run leaves the lines of a straight one."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from rectiflow.errors import StorageError
from rectiflow.training.logs import Logs, MetricsFile


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_past_the_checkpoint_and_half_written_ones_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "preview/a": 1}\n{"step": 3}\n{"ste')
    log = MetricsFile(path, step=2)
    log.write({"step": 3, "loss": 0.5})
    log.close()
    assert lines(path) == [{"step": 1}, {"step": 2}, {"step": 2, "preview/a": 1}, {"step": 3, "loss": 0.5}]


def test_a_fresh_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsFile(path, step=0).close()
    assert path.read_text() == ""


def test_lines_are_strict_json(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path / "m", 0)
    log.write({"step": 1, "loss": math.nan, "norm": math.inf})
    log.close()
    assert lines(tmp_path / "m") == [{"step": 1, "loss": None, "norm": None}]


def test_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"metrics\.jsonl"):
        Logs(tmp_path, steps=3, step=0, tensorboard=False)


def test_plain_lines_away_from_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Logs(None, steps=10, step=0, tensorboard=False) as logs:
        logs.advance(5, 0.25, 1.5)
        logs.figures(5, {"loss": 0.3}, loss=0.25, norm=1.5)
        logs.preview(5, {"score": 2.0})
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("step 5/10  loss 0.2500  |grad| 1.500")
    assert out[1] == "preview at step 5  score 2"
    assert os.listdir(tmp_path) == []


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Logs(None, steps=10, step=0, tensorboard=False) as logs:
        logs.advance(5, 0.25, 1.5)
        logs.figures(5, {"loss": 0.3}, loss=0.25, norm=1.5)
    out = capsys.readouterr().out
    assert "5/10" in out
    assert "loss 0.2500" in out
    assert "step 5/10  loss" not in out


def test_tensorboard_holds_the_figures_and_purges_on_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, value in ((0, 1.0), (2, 2.0)):
        with Logs(tmp_path, steps=4, step=start, tensorboard=True) as logs:
            for step in range(start + 1, 5):
                logs.figures(step, {"loss": value}, loss=value, norm=0.0)
            logs.preview(4, {"score": 3.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
        (4, 2.0),
    ]
    assert events.Scalars("preview/score")[-1].value == 3.0
