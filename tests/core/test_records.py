"""Evaluation records: the newest wins, a kill costs at most the line being written, files are replaced as a whole."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rectiflow.errors import DataError, StorageError
from rectiflow.records import (
    EVALUATION_FILE,
    METRICS_FILE,
    Metric,
    Reference,
    Row,
    append,
    append_header,
    flat_metrics,
    machine_info,
    read_evaluation,
    read_metrics,
    write_atomically,
    write_metrics,
)


def row(steps: int, value: float, *, method: str = "euler", nfe: float | None = None, guidance: float = 1.0) -> Row:
    return Row(
        method=method,
        steps=steps,
        nfe=float(steps) if nfe is None else nfe,
        guidance=guidance,
        count=1440,
        seed=0,
        metrics={"fd_digitsnet": value},
        seconds_per_sample=1e-3,
        command=f"rectiflow evaluate images steps={steps}",
        strip="samples/strip.png",
    )


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    metric = Metric("fd_digitsnet", "Fréchet distance", "lower", primary=True)
    floor = Reference("floor", "train against held-out", 360, {"fd_digitsnet": 16.1}, "samples/real.png")
    append_header(tmp_path, [metric], {"cpu": "model 9"})
    append(tmp_path, floor)
    append(tmp_path, row(1, 152.3))
    append(tmp_path, row(10, 5.9))
    evaluation = read_evaluation(tmp_path)
    assert evaluation.metrics == [metric]
    assert evaluation.machine == {"cpu": "model 9"}
    assert evaluation.references == [floor]
    assert evaluation.rows == [row(1, 152.3), row(10, 5.9)]


def test_the_newest_row_of_a_setting_wins_and_other_settings_stay(tmp_path: Path) -> None:
    for entry in (row(1, 9.0), row(1, 5.0, guidance=2.0), row(2, 4.0), row(1, 7.0), row(1, 6.0, method="heun")):
        append(tmp_path, entry)
    found = [(entry.method, entry.steps, entry.guidance, entry.metrics["fd_digitsnet"]) for entry in _rows(tmp_path)]
    assert found == [("euler", 1, 1.0, 7.0), ("euler", 1, 2.0, 5.0), ("euler", 2, 1.0, 4.0), ("heun", 1, 1.0, 6.0)]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_by_a_kill_is_left_out_and_the_next_append_repairs_the_file(tmp_path: Path, cut: int) -> None:
    append(tmp_path, row(1, 9.0))
    append(tmp_path, row(2, 8.0))
    path = tmp_path / EVALUATION_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [1, 2] if cut == 1 else [1]  # a record that lacks nothing but its newline is a record
    assert [entry.steps for entry in _rows(tmp_path)] == whole
    append(tmp_path, row(4, 7.0))
    assert [entry.steps for entry in _rows(tmp_path)] == [*whole, 4]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_damage_before_the_last_line_is_named_by_its_line(tmp_path: Path) -> None:
    append(tmp_path, row(1, 9.0))
    path = tmp_path / EVALUATION_FILE
    path.write_text('{"kind": "row", "meth\n' + path.read_text())
    with pytest.raises(DataError, match=r"line 1: not a JSON object"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("line", ['{"kind": "row"}', '{"kind": "poem"}', "{}", '{"kind": "header", "metrics": 3}'])
def test_a_line_that_is_no_record_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / EVALUATION_FILE).write_text(line + "\n")
    with pytest.raises(DataError, match="record 1"):
        read_evaluation(tmp_path)


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    append(tmp_path, row(1, 9.0))
    path = tmp_path / EVALUATION_FILE
    path.write_text(path.read_text().replace('"method"', '"colour": "red", "method"'))
    assert _rows(tmp_path) == [row(1, 9.0)]


def test_without_a_file_the_evaluation_is_empty_and_without_a_run_it_is_an_error(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path).rows == []
    assert read_metrics(tmp_path) == {}
    for write in (lambda: append(tmp_path / "typo", row(1, 9.0)), lambda: write_metrics(tmp_path / "typo", {})):
        with pytest.raises(DataError, match="no such run folder"):
            write()


def test_non_finite_values_survive_as_nan_in_files_every_json_reader_accepts(tmp_path: Path) -> None:
    append(tmp_path, row(1, math.inf))
    write_metrics(tmp_path, {"kid": math.nan, "fd": 2.0})
    for text in ((tmp_path / EVALUATION_FILE).read_text(), (tmp_path / METRICS_FILE).read_text()):
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert math.isnan(_rows(tmp_path)[0].metrics["fd_digitsnet"])
    assert math.isnan(read_metrics(tmp_path)["kid"])


def test_flat_keys_say_metric_network_method_and_nfe(tmp_path: Path) -> None:
    append(tmp_path, Reference("floor", "real", 360, {"fd_digitsnet": 16.1}))
    append(tmp_path, Reference("baseline", "gaussian noise", 360, {"fd_digitsnet": 682.0}))
    append(tmp_path, row(10, 5.9))
    append(tmp_path, row(20, 5.5, method="midpoint", nfe=40.0))
    append(tmp_path, row(10, 5.0, guidance=1.5))
    append(tmp_path, row(0, 5.2, method="dopri5", nfe=61.25))
    assert flat_metrics(read_evaluation(tmp_path)) == {
        "fd_digitsnet.floor": 16.1,
        "fd_digitsnet.baseline": 682.0,
        "fd_digitsnet.euler.nfe_10": 5.9,
        "fd_digitsnet.midpoint.nfe_40": 5.5,
        "fd_digitsnet.euler.nfe_10.guidance_1.5": 5.0,
        "fd_digitsnet.dopri5.nfe_61.2": 5.2,
    }


def test_metrics_are_merged_and_leave_no_temporary_file(tmp_path: Path) -> None:
    write_metrics(tmp_path, {"straightness": 0.2, "fd": 9.0})
    write_metrics(tmp_path, {"fd": 5.9})
    assert read_metrics(tmp_path) == {"straightness": 0.2, "fd": 5.9}
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


@pytest.mark.parametrize("text", ["{", "[1]", '{"fd": "high"}', '{"fd": [1]}'])
def test_a_damaged_metrics_file_is_named_and_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / METRICS_FILE).write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json: not a JSON object of numbers"):
        write_metrics(tmp_path, {"fd": 1.0})
    assert (tmp_path / METRICS_FILE).read_text() == text


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_metrics(tmp_path, {"fd": 9.0})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rectiflow.records.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_metrics(tmp_path, {"fd": 1.0})
    with pytest.raises(StorageError, match="No space left"):
        append(tmp_path, row(1, 1.0))
    monkeypatch.undo()
    assert read_metrics(tmp_path) == {"fd": 9.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == [EVALUATION_FILE, METRICS_FILE]


def test_a_file_is_as_readable_as_its_folder_and_not_writable_by_others(tmp_path: Path) -> None:
    for folder_mode, file_mode in ((0o755, 0o644), (0o700, 0o600), (0o777, 0o644)):
        tmp_path.chmod(folder_mode)
        write_atomically(tmp_path / "page", "text")
        assert (tmp_path / "page").stat().st_mode & 0o777 == file_mode


def test_machine_info_is_plain_and_complete() -> None:
    info = machine_info()
    assert set(info) == {"cpu", "cores", "load", "gpu", "platform", "python", "torch", "rectiflow", "commit"}
    assert info["cores"] >= 1
    assert info["python"].startswith("3.")
    assert json.loads(json.dumps(info)) == info


def test_records_do_not_import_torch() -> None:
    probe = "import sys, rectiflow.records as r; r.machine_info(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def _rows(run: Path) -> list[Row]:
    return read_evaluation(run).rows
