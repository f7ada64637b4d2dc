"""The GPU benchmark, as far as a machine without a GPU can tell."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "throughput.py"


@pytest.fixture(autouse=True)
def like_users(float32: None) -> None:
    """In the dtype that users train in."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("throughput", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["throughput"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["throughput.py"])
    assert script.main() == 2
    said = capsys.readouterr().err
    assert "no GPU" in said
    assert said.count("\n") == 1


def test_flops_of_a_matrix_product_are_two_a_multiplication(script: ModuleType) -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert script.flops_of(lambda: a @ b) == 2 * 3 * 5 * 7


def test_the_table_has_a_line_a_row_and_a_sentence_for_what_failed(script: ModuleType) -> None:
    row = script.Row("images", "float32", 650_000, 2, 20.0, 0.08, 4.0, 0.09, 0.0, 6.8)
    lines = script.table([row, script.Row("audio", "float32", 0, 2, 0, 0, 0, 0, 0, 0, note="no data")]).splitlines()
    assert lines[1].split() == ["images", "float32", "0.65", "2", "20", "8.0%", "4", "9.0%", "0", "6.8"]
    assert lines[2] == "audio, float32: no data"


@pytest.mark.slow
def test_the_code_runs_on_a_processor(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits of the images domain come with it")
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["t", "--device", "cpu", "--quick", "--domains", "images", "--json", str(out)])
    assert script.main() == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["mode"] for row in rows] == ["float32", "bfloat16"]
    assert all(row["training_samples"] > 0 and 0 < row["sampling_use"] < 1 for row in rows)
