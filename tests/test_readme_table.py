"""The README's benchmark tables are what the stored results give."""

from __future__ import annotations

from pathlib import Path

import readme_table

from rectiflow.benchmarking.measurement import Measurement, read_measurements

ROOT = Path(__file__).parents[1]


def test_readme_holds_the_tables_of_the_stored_results() -> None:
    assert readme_table.main(["--check"]) == 0, "run python benchmarks/readme_table.py"


def test_every_stored_result_says_how_it_was_made() -> None:
    files = sorted(readme_table.RESULTS.glob("*.jsonl"))
    assert files
    for path in files:
        for entry in read_measurements(path):
            assert entry.command.startswith(("rectiflow ", "python "))
            assert entry.machine.get("cpu")
            assert "/tmp" not in entry.command + str(entry.facts)  # noqa: S108  (looked for, not used)


def test_another_result_would_be_noticed(tmp_path: Path) -> None:
    text = (readme_table.RESULTS / "domains.jsonl").read_text()
    assert readme_table.tables(readme_table.RESULTS) in (ROOT / "README.md").read_text()
    (tmp_path / "domains.jsonl").write_text(text.replace('"nfe": 2.0', '"nfe": 3.0'))
    assert readme_table.tables(tmp_path) != readme_table.tables(readme_table.RESULTS)


def test_the_table_of_peers_names_the_nearest_of_each_contest() -> None:
    def entry(peer: str, ratio: float) -> Measurement:
        cell: dict[str, str | float] = {"part": "transport", "case": "batch of 256", "peer": peer}
        figures = {"ratio": ratio, "difference": 1e-9, "tolerance": 1e-6}
        return Measurement(
            "peers", cell, figures, "rectiflow bench peers", intervals={"ratio": (ratio - 0.1, ratio + 0.1)}
        )

    text = readme_table.peers_table([entry("rectiflow", 1.0), entry("far", 0.2), entry("near", 0.4)])
    assert "| minibatch transport: batch of 256 | near | 0.400 | 0.300 to 0.500 | yes |" in text
    assert "far" not in text
    assert readme_table.peers_table([]) == ""
