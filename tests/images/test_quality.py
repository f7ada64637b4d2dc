"""The bar of the demo: what `make demo` makes, measured by `rectiflow evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rectiflow.cli import main


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_digits_demo_reaches_its_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "images"]) == 0
    base, student = (
        json.loads((tmp_path / "runs/images/demo" / name / "metrics.json").read_text())
        for name in ("base", "rectified")
    )
    fd = {nfe: base[f"fd_digitsnet.euler.nfe_{nfe}"] for nfe in (1, 2, 4, 10)}
    assert fd[1] > fd[2] > fd[4] > fd[10]
    assert fd[10] <= 10
    assert base["fd_digitsnet.midpoint.nfe_40"] <= 8.5
    one_step = student["fd_digitsnet.euler.nfe_1"]
    assert one_step <= 9
    assert one_step <= fd[1] / 10
    assert student["accuracy_digitsnet.euler.nfe_1"] >= 0.95
    assert student["diversity_digitsnet.euler.nfe_1"] >= 0.8
    assert 0.7 <= student["memorisation.euler.nfe_1"] <= 1.2
    assert student["straightness"] <= base["straightness"] / 2
    assert (tmp_path / "runs/images/demo/rectified/report.html").stat().st_size > 50_000
