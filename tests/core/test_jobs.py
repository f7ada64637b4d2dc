"""Calls side by side: order, what is counted, what is said on the way, and what a failure stops."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rectiflow.errors import RectiflowError
from rectiflow.verbs.jobs import Call, Job, run_jobs

PROGRAM = """#!/bin/sh
# called as: program -m rectiflow.cli WHAT
echo "$3 $OMP_NUM_THREADS" >> "$(dirname "$0")/calls"
case $3 in
    fail) echo "it broke"; exit 3;;
    slow) echo "step 1/4"; sleep 0.3; echo "step 3/4"; sleep 0.6;;
    hang) exec sleep 60;;
esac
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "program"
    path.write_text(PROGRAM)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def job(*names: str, work: float = 0.0) -> Job:
    def calls() -> Iterator[Call]:
        for name in names:
            yield Call(name, [name], work / len(names))

    return Job(calls(), work)


def called(program: Path) -> list[str]:
    return (program.parent / "calls").read_text().splitlines()


def test_jobs_begin_in_order_and_every_call_is_counted(program: Path) -> None:
    spent: list[tuple[str, float]] = []
    jobs = [job("first", "second", work=1.0), job(), job("middle", work=5.0), job("little", work=3.0)]
    run_jobs(jobs, folder=program.parent, at_once=1, spend=lambda name, seconds: spent.append((name, seconds)))
    assert called(program) == ["first 1", "second 1", "middle 1", "little 1"]
    assert [name for name, _ in spent] == ["first", "second", "middle", "little"]
    assert all(seconds >= 0 for _, seconds in spent)


def test_it_says_how_far_it_is(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program.parent / "slow.log").write_text("step 4/4\n")  # of an earlier call
    run_jobs(
        [job("slow", work=1.0), job("little")], folder=program.parent, at_once=1, spend=lambda *_: None, news_every=0.1
    )
    news = [line for line in capsys.readouterr().out.splitlines() if line.startswith("after")]
    assert "after 0 min: slow 25 %; 1 to come, about 0 min left" in news
    assert any("slow 75 %" in line for line in news)
    assert not any("slow 100 %" in line for line in news)


def test_a_failure_stops_the_others_and_names_its_log(program: Path) -> None:
    with pytest.raises(RectiflowError, match=r"fail failed: it broke; its log is .*fail\.log, and the same command"):
        run_jobs([job("hang"), job("fail")], folder=program.parent, at_once=2, spend=lambda *_: None)
