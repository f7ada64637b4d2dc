"""The README's benchmark tables are what the stored results give."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rectiflow.benchmarking.measurement import Measurement, read_measurements
from rectiflow.errors import DataError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_readme_holds_the_tables_of_the_stored_results(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0, "run python benchmarks/readme_table.py"


def test_every_stored_result_says_how_it_was_made(script: ModuleType) -> None:
    files = sorted(script.RESULTS.glob("*.jsonl"))
    assert files
    for path in files:
        for entry in read_measurements(path):
            assert entry.command.startswith(("rectiflow ", "python "))
            assert entry.machine.get("cpu")
            assert "/tmp" not in entry.command + str(entry.facts)  # noqa: S108  (looked for, not used)


def test_another_result_would_be_noticed(script: ModuleType, tmp_path: Path) -> None:
    text = (script.RESULTS / "domains.jsonl").read_text()
    assert script.tables(script.RESULTS) in (ROOT / "README.md").read_text()
    (tmp_path / "domains.jsonl").write_text(text.replace('"nfe": 2.0', '"nfe": 3.0'))
    assert script.tables(tmp_path) != script.tables(script.RESULTS)
    with pytest.raises(DataError, match="no markers"):
        script.inserted("a README without them", "table")


def test_the_table_of_peers_names_the_nearest_of_each_contest(script: ModuleType) -> None:
    def entry(peer: str, ratio: float) -> Measurement:
        cell: dict[str, str | float] = {"part": "transport", "case": "batch of 256", "peer": peer}
        figures = {"ratio": ratio, "difference": 1e-9, "tolerance": 1e-6}
        return Measurement(
            "peers", cell, figures, "rectiflow bench peers", intervals={"ratio": (ratio - 0.1, ratio + 0.1)}
        )

    text = script.peers_table([entry("rectiflow", 1.0), entry("far", 0.2), entry("near", 0.4)])
    assert "| minibatch transport: batch of 256 | near | 0.400 | 0.300 to 0.500 | yes |" in text
    assert "far" not in text
    assert script.peers_table([]) == ""
