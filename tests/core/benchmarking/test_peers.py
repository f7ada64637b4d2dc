"""`rectiflow bench peers` without the peers, which come with the bench extra, and with those that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rectiflow.benchmarking.contest import BARE, OURS, hold
from rectiflow.benchmarking.measurement import FILE, Measurement, read_measurements
from rectiflow.benchmarking.peers.errors import Known, Point, equal_error_ratios, fixed_budgets
from rectiflow.benchmarking.peers.layout import layout
from rectiflow.benchmarking.peers.learning import chequerboard, learn, losses
from rectiflow.benchmarking.peers.present import INSTALL, those_installed, untouched
from rectiflow.benchmarking.peers.sampling import METHODS, sampling
from rectiflow.benchmarking.peers.study import mean_interval
from rectiflow.benchmarking.peers.training import BARE_LOOP, training
from rectiflow.benchmarking.peers.transport import transport
from rectiflow.cli import main


@pytest.fixture(autouse=True)
def like_users(float32: None) -> None:
    """In the dtype that users train in."""


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_what_is_not_installed_is_named_with_its_command() -> None:
    def absent() -> str:
        raise ModuleNotFoundError("no such library")

    made, missing = those_installed({"here": lambda: "made", "gone": absent})
    assert (made, missing) == ({"here": "made"}, {"gone": INSTALL})


def test_global_chance_is_given_back() -> None:
    before = torch.get_rng_state()
    with untouched():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", METHODS)
def test_all_samplers_end_where_ours_does(method: str, generator: torch.Generator) -> None:
    contest = sampling(method, generator)
    assert {OURS, BARE} <= contest.runs.keys()
    assert contest.difference is not None
    ours = contest.runs[OURS]()
    with untouched():
        for name, run in contest.runs.items():
            assert contest.difference(ours, run()) < contest.tolerance, name


def test_all_loops_come_to_the_weights_of_ours(generator: torch.Generator) -> None:
    contest = training(16, 1, 8, 7, generator)
    assert {OURS, BARE_LOOP} <= contest.runs.keys()
    assert contest.difference is not None
    assert contest.spent is not None
    ours = contest.runs[OURS]()
    assert not torch.equal(ours.weights, training(16, 1, 8, 8, generator).runs[OURS]().weights)
    with untouched():
        for name, run in contest.runs.items():
            trained = run()
            assert contest.difference(ours, trained) < 1e-6, name
            assert len(trained.begun) == 7
            assert all(seconds > 0 for seconds in contest.spent(trained)), name


def test_plans_cost_the_same_and_ours_uses_every_row(generator: torch.Generator) -> None:
    contest = transport(32, generator)
    assert contest.figures is not None
    found = hold(contest, rounds=5, seconds=1, generator=generator)
    assert next(outcome for outcome in found if outcome.name == OURS).figures["rows_used"] == 1.0
    assert all(outcome.difference < contest.tolerance for outcome in found)


def test_evaluations_at_equal_error_are_read_between_the_points() -> None:
    theirs = [Point("b", "m", 10.0**-k, 100 * 2**k) for k in range(1, 5)]
    half = [Point("a", "m", 10.0 ** -(k + 0.5), round(50 * 2 ** (k + 0.5))) for k in range(1, 4)]
    outside = [Point("a", "m", 1.0, 1), Point("a", "m", 1e-9, 1)]
    assert equal_error_ratios([outside[0], *half, outside[1]], theirs) == pytest.approx([0.5] * 3, rel=5e-3)


def test_errors_fall_with_the_order_of_the_solver(generator: torch.Generator) -> None:
    found, _ = fixed_budgets(Known(generator))
    errors = {(point.method, point.nfe): point.error for point in found[OURS]}
    assert errors["euler", 16] / errors["euler", 32] == pytest.approx(2, rel=0.1)
    assert errors["midpoint", 16] / errors["midpoint", 32] > 2.5
    assert errors["euler", 8] == pytest.approx(errors["ddim", 8], rel=1e-6)  # the same step on a straight path
    for peer, points in found.items():
        for point in points:
            assert math.isfinite(point.error), (peer, point)


def test_the_board_has_points_on_dark_squares_alone(generator: torch.Generator) -> None:
    points = chequerboard(2000, generator)
    column, row = (points + 2).floor().long().unbind(1)
    assert ((column + row) % 2 == 0).all()
    assert len(torch.unique(4 * column + row)) == 8
    assert points.abs().max() <= 2


def test_updates_bring_samples_nearer_to_data() -> None:
    loss = losses()[0][OURS]
    few, many = (learn(loss, updates, seed=0)["distance_32"] for updates in (1, 80))
    assert many < 0.6 * few


def test_an_interval_of_a_mean_is_students() -> None:
    found = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    assert found == pytest.approx((2.0, 2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), rel=1e-4)


def timing(part: str, peer: str, ratio: float, spread: float, **figures: float) -> Measurement:
    known = {
        "microseconds": 3.0,
        "ratio": ratio,
        "clock_ratio": ratio,
        "difference": 1e-7,
        "tolerance": 1e-5,
        "rounds": 9.0,
    }
    cell: dict[str, str | float] = {"part": part, "case": "this case", "peer": peer}
    command = f"rectiflow bench peers parts=[{part}]"
    return Measurement(
        "peers",
        cell,
        known | figures,
        command,
        intervals={"ratio": (ratio - spread, ratio + spread)},
        note="a step; said of all",
    )


def verdicts(measurements: Sequence[Measurement]) -> str:
    return "\n".join(layout(measurements).findings)


def test_a_bar_is_held_when_the_whole_interval_of_the_nearest_rival_is_below_it() -> None:
    ours, far, near = (
        timing("sampling", OURS, 1, 0),
        timing("sampling", "a", 0.1, 0.01),
        timing("sampling", "b", 0.8, 0.1),
    )
    assert "0.800 [0.700, 0.900] of b's, the nearest; bar 1: held" in verdicts([ours, far, near])
    assert "not decided" in verdicts([ours, timing("sampling", "b", 0.95, 0.1)])
    assert "missed" in verdicts([ours, timing("sampling", "b", 1.2, 0.1)])
    assert "held" in verdicts([timing("training", BARE_LOOP, 1.03, 0.01), timing("training", "torchcfm", 1.2, 0.01)])


def test_unequal_results_are_the_first_thing_said() -> None:
    right, wrong = timing("transport", "a", 0.5, 0.1), timing("transport", "b", 0.5, 0.1, difference=1e-3)
    assert verdicts([right]).startswith("All 1 results")
    assert (
        layout([right, wrong])
        .findings[0]
        .startswith("Results that should be equal and are not: transport, this case, b")
    )


def test_the_study_runs_once_and_leaves_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "peers", "quick=true", "parts=[adaptive]", f"out={tmp_path}"]
    assert main(command) == 0
    path = tmp_path / "bench" / "peers-quick" / FILE
    found = read_measurements(path)
    assert {entry.cell["peer"] for entry in found} >= {OURS}
    errors = [entry.figures["error"] for entry in found if "error" in entry.figures and entry.cell["peer"] == OURS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6
    page = (path.parent / "report.html").read_text()
    assert "rectiflow bench peers parts=[adaptive] quick=true" in page
    before = path.read_bytes()
    assert main(command) == 0
    assert path.read_bytes() == before
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["parts=[speed]", "rounds=3", "seconds=0", "seeds=1"])
def test_wrong_settings_are_one_line(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", setting, f"out={tmp_path}"]) != 0
    said = capsys.readouterr().err
    assert setting.split("=")[0] in said
    assert said.count("\n") == 1
