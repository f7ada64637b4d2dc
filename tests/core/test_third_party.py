"""A domain in a package of its own, found through its entry point, goes through every verb of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

PACKAGE = Path(__file__).parents[1] / "third_party"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata that pip would have written."""
    folder = tmp_path_factory.mktemp("third party")
    info = folder / "rectiflow_rings-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rectiflow-rings\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rectiflow.domains]\nrings = rectiflow_rings:SPEC\n")
    return folder


def call(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(place), str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "rectiflow.cli", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": paths, "RECTIFLOW_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_third_party_domain_trains_samples_and_is_rectified(place: Path) -> None:
    assert "points on a ring" in call(place, "domains").stdout
    demo = call(place, "demo", "rings", "name=here")
    assert demo.returncode == 0, demo.stderr
    base, rectified = place / "runs/rings/here/base", place / "runs/rings/here/rectified"
    sample = call(place, "sample", "rings", f"run={rectified}", "steps=1", "method=euler", "count=200", "out=drawn")
    assert sample.returncode == 0, sample.stderr
    assert len((place / "drawn/points.csv").read_text().splitlines()) == 200
    before, after = (json.loads((run / "metrics.json").read_text()) for run in (base, rectified))
    assert after["radius_error.euler.nfe_1"] < 0.5 * before["radius_error.euler.nfe_1"]
    assert after["straightness"] < 0.5 * before["straightness"]
    assert (rectified / "report.html").stat().st_size > 10_000
    distilled = call(place, "distill", "rings", f"run={base}", "method=shortcut", "training.steps=150")
    assert distilled.returncode == 0, distilled.stderr
    student = place / "runs/rings/distilled"
    figures = call(place, "evaluate", "rings", f"run={student}")
    assert figures.returncode == 0, figures.stderr
    assert "radius_error.jump.nfe_1" in json.loads((student / "metrics.json").read_text())
    guided = call(place, "sample", "rings", f"run={student}", "guidance=2")
    assert guided.returncode == 2
    assert "guidance scale 2 is refused" in guided.stderr


def test_schedules_of_components_are_settings(place: Path) -> None:
    """Named on the command line they reach the flow, which here predicts velocities and so cannot be on one."""
    base = place / "runs/rings/here/base"
    assert (base / "config.yaml").read_text().count(" exponential: {}") == 3  # sampling, evaluation, reflow
    for verb in ("sample", "evaluate"):
        refused = call(place, verb, "rings", f"run={base}", "exponential.point=10")
        assert refused.returncode != 0
        assert "predicts velocity" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_a_student_is_evaluated_on_the_schedule_that_reflow_says(place: Path) -> None:
    written: list[dict[str, dict[str, float]]] = []
    for name, settings in (("plain", []), ("late", ["student_exponential.point=8"])):
        call(
            place,
            "reflow",
            "rings",
            "run=runs/rings/here/base",
            f"name={name}",
            "pairs=8",
            "training.steps=1",
            *settings,
        )
        config = OmegaConf.load(place / f"runs/rings/{name}/config.yaml")
        written.append({section: dict(config[section].exponential) for section in ("sampling", "evaluation")})
    assert written == [{"sampling": {}, "evaluation": {}}, {"sampling": {"point": 8}, "evaluation": {"point": 8}}]
