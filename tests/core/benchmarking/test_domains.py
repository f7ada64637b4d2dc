"""`rectiflow bench domains` on a domain in a package of its own: trained, measured cell by cell, continued, reported."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rectiflow.benchmarking.footprint import footprint, sampling, training
from rectiflow.benchmarking.measurement import FILE, read_measurements
from rectiflow.cli import main
from rectiflow.drawing import carry, draw_sources
from rectiflow.errors import RectiflowError
from rectiflow.trained import open_run

PACKAGE = Path(__file__).parents[2] / "third_party"
COMMAND = ["bench", "domains", "domains=[rings]", "quick=true", "parts=[quality]", "samples=16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with the metadata of the domain that pip would have written, and one quick study done there."""
    folder = tmp_path_factory.mktemp("study")
    info = folder / "rectiflow_rings-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rectiflow-rings\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rectiflow.domains]\nrings = rectiflow_rings:SPEC\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE))
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(PACKAGE)]))
        patch.chdir(folder)
        torch.set_default_dtype(torch.float32)
        assert main(COMMAND) == 0
        yield folder


@pytest.fixture(autouse=True)
def like_users(float32: None) -> None:
    """In the dtype that users train in."""


@pytest.fixture
def study(place: Path) -> Path:
    return place / "runs" / "bench" / "domains-quick"


def test_every_cell_is_measured_once_and_the_page_holds_its_command(study: Path) -> None:
    found = read_measurements(study / FILE)
    quality = {
        (entry.cell["flow"], entry.cell["solver"], entry.cell["nfe"]): entry
        for entry in found
        if entry.cell["part"] == "quality"
    }
    solvers = {"midpoint": (2, 8), "heun": (2, 8)}
    flows = ("base", "rectified")
    assert set(quality) == {(f, s, float(nfe)) for f in flows for s, counts in solvers.items() for nfe in counts}
    for (_, _, nfe), entry in quality.items():
        assert entry.figures["nfe"] == nfe
        assert 0 < entry.figures["network_share"] <= 1
        assert entry.figures["ms"] > 0
        assert entry.floor == {"radius_error": 0.0}
        assert math.isnan(entry.figures["normalised"])  # this domain has no baseline
    page = html.unescape((study / "report.html").read_text())
    assert all(entry.command in page for entry in found)
    assert "rings: radius error" in page
    assert (study.parent / "report.html").is_file()


def test_figures_are_those_of_the_same_noise_solved_by_hand(place: Path, study: Path) -> None:
    from rectiflow.domain import load_spec

    for flow in ("base", "rectified"):
        trained = open_run(load_spec("rings"), place / "runs" / "rings" / "bench-quick" / flow)
        generator = torch.Generator().manual_seed(1)
        cond = trained.domain.conditions(16, generator)
        x0 = draw_sources(trained.domain, trained.flow, cond, 16, generator)
        x = carry(trained.flow, x0, cond, method="heun", steps=4).x
        error = float((x["point"].norm(dim=1) - 2).abs().mean())
        (entry,) = [
            entry
            for entry in read_measurements(study / FILE)
            if (entry.cell["flow"], entry.cell.get("solver"), entry.cell.get("nfe")) == (flow, "heun", 8.0)
        ]
        assert entry.figures["radius_error"] == pytest.approx(error, rel=1e-6)


def test_what_is_missing_is_measured_and_nothing_else(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (study / FILE).read_text().splitlines(keepends=True)
    assert main(COMMAND) == 0
    assert (study / FILE).read_text() == "".join(whole)
    (study / FILE).write_text("".join(whole[:-2]) + whole[-2][:50])
    capsys.readouterr()
    assert main(COMMAND) == 0
    printed = capsys.readouterr().out
    assert printed.count("rings, rectified, quality, heun") == 2
    again = (study / FILE).read_text().splitlines()
    for before, after in zip(whole[-2:], again[-2:], strict=True):
        assert json.loads(before)["figures"]["radius_error"] == json.loads(after)["figures"]["radius_error"]


def test_a_solver_that_cannot_is_a_note_and_is_tried_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        "runs.rings=runs/rings/bench-quick/rectified",
        "flows=[base]",
        "methods=[dopri5]",
        "max_nfe=3",
        "parts=[quality]",
    ]
    command = ["bench", "domains", "domains=[rings]", *runs, "samples=4", "name=note"]
    for _ in range(2):
        assert main(command) == 0
        assert "max_nfe" in capsys.readouterr().out
    (entry,) = [e for e in read_measurements(place / "runs/bench/note" / FILE) if e.cell["part"] == "quality"]
    assert entry.figures == {}
    assert entry.note in html.unescape((place / "runs/bench/note/report.html").read_text())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["domains=[ring]"], "domains holds 'ring'; allowed:"),
        (["flows=[before]"], "flows holds 'before'; allowed: base, rectified"),
        (["parts=[speed]"], "parts holds 'speed'; allowed: quality, cost"),
        (["methods=[eular]"], "solver 'eular' is unknown"),
        (["nfe=[0]"], "give numbers of evaluations"),
        (["nfe=[]"], "give numbers of evaluations"),
        (["samples=1"], "samples=1 is not allowed"),
        (["max_nfe=0"], "max_nfe=0 is not allowed"),
        (["runs.ring=runs"], "runs holds 'ring'"),
        (["runs.rings=nowhere", "domains=[rings]"], "runs.rings=nowhere holds neither"),
        (["domains=[rings]", "name=none"], "no domain has a trained run"),
        (["sample=4"], "did you mean samples"),
    ],
)
def test_mistakes_are_one_line(
    place: Path, settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "domains", *settings]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
    assert not (place / "runs/bench/none").exists()


def test_footprints_are_of_this_run(place: Path) -> None:
    base = place / "runs/rings/bench-quick/base"
    found = training("rings", base)
    assert found["batch"] == 256
    assert found["updates_per_second"] > 1
    assert found["update_ms"] < 1000
    memory = sampling("rings", base)
    assert 50 < memory["imports_mb"] <= memory["peak_mb"] < 20_000
    with pytest.raises(RectiflowError, match="failed in a process of its own"):
        footprint("sampling", "rings", place / "nowhere")


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "domains", "--help"]) == 0
    assert "max_nfe: 400" in capsys.readouterr().out
    assert main(["bench", "nothing"]) == 2
    assert "allowed: domains" in capsys.readouterr().err
