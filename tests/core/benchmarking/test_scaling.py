"""Fits against closed forms, the study on work of known cost, and two processes against one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rectiflow.benchmarking.measurement import FILE, Measurement, read_measurements
from rectiflow.benchmarking.scaling import study
from rectiflow.benchmarking.scaling.costs import Axis, core_axes
from rectiflow.benchmarking.scaling.fitting import line, power_law
from rectiflow.benchmarking.scaling.layout import layout
from rectiflow.benchmarking.scaling.processes import train
from rectiflow.cli import main
from rectiflow.errors import ConfigError, RectiflowError


@pytest.fixture(autouse=True)
def like_users(float32: None) -> None:
    """In the dtype that users train in."""


def test_a_power_law_is_found_exactly() -> None:
    sizes = [1.0, 3.0, 10.0, 40.0]
    found = power_law(sizes, [0.7 * size**1.5 for size in sizes])
    assert found.exponent == pytest.approx((1.5, 1.5, 1.5))
    assert found.factor == pytest.approx(0.7)


def test_the_interval_of_an_exponent_covers_it() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [2.0**k for k in range(6)]
    covered = 0
    for _ in range(400):
        noise = (0.1 * torch.randn(6, generator=generator)).exp().tolist()
        exponent = power_law(sizes, [size * factor for size, factor in zip(sizes, noise, strict=True)]).exponent
        covered += exponent.low <= 1 <= exponent.high
    assert abs(covered / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_a_line_is_found_over_six_decades() -> None:
    sizes = [4.0 * 4**k for k in range(5, 12)]
    offset, slope = line(sizes, [2e-5 + 3e-10 * size for size in sizes])
    assert (offset, slope) == (pytest.approx(2e-5, rel=1e-6), pytest.approx(3e-10, rel=1e-6))


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 0, 2])])
def test_points_that_no_law_fits_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ConfigError, match="power law"):
        power_law(x, y)


def test_pieces_of_the_core_run_at_their_smallest_sizes() -> None:
    for axis in core_axes(torch.Generator().manual_seed(0)):
        axis.prepare(axis.sizes[0])()


def quadratic(size: int) -> study.Run:
    rows = torch.ones(size * size)
    return lambda: rows.exp().sum()


def test_the_study_fits_what_it_times_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = [Axis("squares", "side", (256, 512, 1024, 2048), quadratic)]
    monkeypatch.setattr(study, "core_axes", lambda generator: axes)
    command = ["bench", "scaling", "quick=true", "parts=[core]", f"out={tmp_path}"]
    assert main(command) == 0
    path = tmp_path / "bench" / "scaling-quick" / FILE
    found = {entry.label: entry for entry in read_measurements(path)}
    assert found["core, squares, side, 1024"].figures["ms"] > 0
    fit = found["core, squares, side, fit"]
    assert fit.figures["exponent_large"] == pytest.approx(2, abs=0.5)
    assert fit.intervals["exponent"][0] < fit.figures["exponent"] < fit.intervals["exponent"][1]
    lines = path.read_text().count('"size": 1024')
    assert main(command) == 0
    assert path.read_text().count('"size": 1024') == lines
    assert "rectiflow bench scaling parts=[core] quick=true" in (path.parent / "report.html").read_text()


def test_a_domain_that_cannot_be_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: object, config: object) -> object:
        raise RectiflowError("no weights here")

    monkeypatch.setattr(study, "model_of", broken)
    monkeypatch.setattr(study, "installed", lambda: {"images": None})
    assert main(["bench", "scaling", "quick=true", "parts=[domains]", f"out={tmp_path}"]) == 0
    assert "no weights here" in (tmp_path / "bench" / "scaling-quick" / "report.html").read_text()


@pytest.mark.parametrize("setting", ["parts=[speed]", "updates=1", "seconds=-1", "domains=[soup]"])
def test_wrong_settings_are_one_line(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scaling", setting, f"out={tmp_path}"]) != 0
    said = capsys.readouterr().err
    assert setting.split("=")[0] in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("equal", "words"), [(1.0, "equal to the bit"), (0.0, "NOT equal to the bit")])
def test_the_page_says_whether_processes_agree(equal: float, words: str) -> None:
    names = "ranks_agree repeats efficiency efficiency_fixed_batch one_process two_processes update_ms parameters"
    names += " latency_us gigabytes_per_second"
    cell: dict[str, str | float] = {"part": "processes", "case": "two processes", "axis": "weights", "size": "fit"}
    found = Measurement("scaling", cell, {"equal": equal, **dict.fromkeys(names.split(), 1.0)}, "command")
    assert words in layout([found]).findings[0]


@pytest.mark.distributed
def test_two_processes_equal_one_with_two_micro_steps_to_the_bit() -> None:
    double, single = train(2, 8, 1, 6), train(1, 8, 2, 6)
    assert double["hash"] == single["hash"]
    assert double["ranks_agree"] == 1.0
    assert train(1, 8, 1, 6)["hash"] != single["hash"]
