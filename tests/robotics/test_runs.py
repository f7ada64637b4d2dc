"""From demonstrations to figures and films, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rectiflow.cli import main
from rectiflow.records import read_evaluation, read_metrics

SHORT = ["training.steps=20", "training.batch=16", "training.tensorboard=false", "model.width=16", "model.depth=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("robotics")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFLOW_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    assert main(["train", "robotics", "recipe=point_reach", "data.episodes=5", *SHORT]) == 0
    return place / "runs/robotics/base"


def test_evaluation_counts_successes_in_fresh_episodes(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "robotics", f"run={base}", "samplers=[euler-1,euler-2]", "count=8"]) == 0
    evaluation = read_evaluation(base)
    assert [row.nfe for row in evaluation.rows] == [1, 2]
    for row in evaluation.rows:
        wins = row.metrics["success"] * 8
        assert wins == pytest.approx(round(wins))
        assert row.metrics["success_low"] <= row.metrics["success"] <= row.metrics["success_high"]
    floor, baseline = evaluation.references
    assert (floor.kind, floor.metrics["success"]) == ("floor", 1)
    assert baseline.metrics["success"] < 0.5
    assert "success.euler.nfe_1" in read_metrics(base)
    assert (base / "report.html").exists()
    first = evaluation.rows[0].metrics
    assert main(["evaluate", "robotics", f"run={base}", "samplers=[euler-1]", "count=8"]) == 0
    assert read_evaluation(base).rows[0].metrics == first  # the same seed, the same episodes
    assert main(["evaluate", "robotics", f"run={base}", "samplers=[euler-1]", "count=8", "weights=model"]) == 0


def test_a_film_is_made_without_a_renderer(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", "robotics", f"run={base}", "episodes=3", "size=96"]) == 0
    assert "(drawing)" in capsys.readouterr().out
    films = sorted((base / "videos").glob("*.mp4"))
    assert films
    for path in films:
        assert path.read_bytes()[4:8] == b"ftyp"
    strip = np.asarray(Image.open(base / "videos/episodes.png"))
    assert strip.std() > 5


def test_a_single_chunk_can_be_asked_for(base: Path, place: Path) -> None:
    asked = "cond.observation=[0.1,0.2,0.3,0.4]"
    assert main(["sample", "robotics", f"run={base}", "count=2", "steps=1", asked, f"out={place / 'chunks'}"]) == 0
    assert len(list((place / "chunks").glob("0000*.png"))) == 2
    assert main(["sample", "robotics", f"run={base}", "count=2", "steps=1", "cond.observation=[0.1,0.2]"]) == 2


@pytest.mark.parametrize("method", ["mean_flow", "shortcut", "dispersive"])
def test_students_of_average_velocities_act_in_one_step(base: Path, method: str) -> None:
    layers = ["method.layers=[layers.0]"] if method == "dispersive" else []
    settings = [f"run={base}", f"name={method}", f"method={method}", "training.steps=10", "training.batch=16", *layers]
    assert main(["distill", "robotics", *settings, "training.tensorboard=false"]) == 0
    student = base.parent / method
    assert main(["evaluate", "robotics", f"run={student}", "samplers=[jump-1]", "count=2"]) == 0
    assert read_evaluation(student).rows[0].nfe == 1


def test_pictures_are_cloned_too(place: Path) -> None:
    pixels = ["data.env=point-reach-pixels", "data.episodes=2", "model=vision", "model.tokens=16", "name=pixels"]
    assert main(["train", "robotics", "recipe=point_reach", *SHORT, *pixels]) == 0
    assert main(["evaluate", "robotics", f"run={place / 'runs/robotics/pixels'}", "samplers=[euler-1]", "count=2"]) == 0


def test_a_trained_policy_outlives_its_demonstrations(place: Path) -> None:
    assert main(["collect", "robotics", "env=point-reach", "episodes=3", f"out={place / 'demos'}"]) == 0
    (path,) = (place / "demos").glob("*.npz")
    source = ["data=file", "data.env=point-reach", f"data.path={path}", "name=filed"]
    assert main(["train", "robotics", "recipe=point_reach", *SHORT, *source]) == 0
    run = place / "runs/robotics/filed"
    assert main(["evaluate", "robotics", f"run={run}", "samplers=[euler-1]", "count=5"]) == 0
    before = read_evaluation(run).rows[0].metrics
    path.unlink()
    assert main(["evaluate", "robotics", f"run={run}", "samplers=[euler-1]", "count=5"]) == 0
    assert read_evaluation(run).rows[0].metrics == before


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    return error


def test_mistakes_get_one_line(base: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean point-reach" in said(capsys, "collect", "robotics", "env=point-rich")
    assert "at least 1 episode" in said(capsys, "collect", "robotics", "env=point-reach", "episodes=0")
    assert "at least 4000 steps" in said(capsys, "collect", "robotics", "env=Hopper-v5", "expert_steps=10")
    assert "episods" in said(capsys, "collect", "robotics", "episods=3")
    assert "did you mean" in said(capsys, "train", "robotics", "recipe=point_reach", "data.env=point-rich", "name=bad")
    assert "64 to 640" in said(capsys, "video", "robotics", f"run={base}", "size=7")
    assert not (place / "runs/robotics/bad").exists()


def test_help_needs_neither_torch_nor_a_simulator() -> None:
    script = (
        "import sys; from rectiflow.cli import main; main(['collect', 'robotics', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'gymnasium', 'mujoco')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "episodes: 10" in done.stdout


def test_without_the_extra_the_pip_line_is_given() -> None:
    script = (
        "import sys; sys.modules['gymnasium'] = None; from rectiflow.cli import main; "
        "sys.exit(main(['collect', 'robotics', 'env=point-reach']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'rectiflow[robotics]'" in done.stderr
    assert json.dumps(done.stderr).count("Traceback") == 0


def test_the_demo_ends_in_a_page(place: Path) -> None:
    assert main(["demo", "robotics", "recipe=point_reach", "steps=20", "iterations=1"]) == 0
    run = place / "runs/robotics/demo/finetuned"
    page = (run / "report.html").read_text()
    assert page.count("<video") == 2
    assert "success" in page
    assert "http" not in page
    assert {"success.before", "success.after"} <= set(read_metrics(run))
