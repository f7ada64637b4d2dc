"""The few-step table of benchmarks/README.md: `python benchmarks/few_step_table.py runs/images/few-step`.

Stores the study's results and figure in benchmarks/results, and writes the table and what it says between the markers. Without a
folder the table is written from what is stored; with --check it is only compared, by the exit code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from marked_block import markers, write_block

from rectiflow.errors import DataError
from rectiflow.records import write_atomically
from rectiflow.study import Study
from rectiflow.study_report import Result, markdown_table
from rectiflow_images.few_step import FEW_STEP

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
STORED = "few_steps.json"
FIGURE = "few_steps.png"
ENDS = markers("few steps", "few_step_table.py")
ALLOWED = 1.25
"""How much worse than the bar a student of one evaluation may be."""
SMALL = 2.0
"""And the smallest student."""


def store(folder: Path, results: Path = RESULTS) -> None:
    """Copy a study's figure, and its results without the paths of the machine it ran on.

    Raises:
        DataError: the folder holds no finished study.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no results.json; run `rectiflow bench few-step` to its end first")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [{name: value for name, value in row.items() if name not in ("strip", "command")} for row in found["rows"]]
    write_atomically(results / STORED, json.dumps({**found, "rows": rows}, indent=1) + "\n")
    shutil.copyfile(folder / FIGURE, results / FIGURE)


def block(found: Mapping[str, Any], study: Study = FEW_STEP) -> str:
    """Markdown of stored results: how they were made, the table, the bars."""
    known = {field.name for field in fields(Result)}
    rows = [Result(**{name: value for name, value in row.items() if name in known}) for row in found["rows"]]
    return "\n".join(
        [_caption(found, rows), markdown_table(study, rows), *(f"- {line}" for line in verdicts(rows, study)), ""]
    )


def _caption(found: Mapping[str, Any], rows: Sequence[Result]) -> str:
    machine, minutes = found["machine"], found["minutes"]
    spent = sum(found["cpu_seconds"].values())
    took = f"{minutes:g} minutes from an empty folder, " if minutes is not None else "continued, "
    asked = max(row.teacher_evaluations for row in rows)
    text = (
        f"Measured: one seed, {found['updates']} updates of 128 samples a student, {found['count']} samples a row; {took}"
        f"{spent:.0f} s of processor time in all, {found['jobs']} processes on {machine['cpu']}, torch {machine['torch']}. "
        "Teacher evaluations are the states that the teacher was asked at for a student, as counted while it trained, pairs and "
        f"grids included: at most {asked / 1000:.0f} k. Students that know one step only have a row of one evaluation."
    )
    return textwrap.fill(text, 128, break_on_hyphens=False) + "\n"


def verdicts(rows: Sequence[Result], study: Study = FEW_STEP) -> list[str]:
    """What the table says of each bar; one is left out where its rows are missing."""
    metric, title = next(iter(study.metrics.items()))
    figures = {(row.entry, row.sampler): row.metrics[metric] for row in rows}
    level, lines = figures.get(study.bar), []
    if level is not None:
        students = [row for row in rows if row.nfe == 1 and row.entry != study.bar[0]]
        lines += _one_step(students, metric, title, level)
        size = next(row.parameters for row in rows if (row.entry, row.sampler) == study.bar)
        small = [row for row in students if row.parameters <= size / 4]
        lines += [
            f"{row.title}: {100 * row.parameters / size:.0f} % of the parameters, {title} {row.metrics[metric]:.2f}, "
            f"{_verdict(row.metrics[metric], SMALL * level)} twice the bar."
            for row in small
        ]
    for what, ours, theirs in PAIRS:
        if ours in figures and theirs in figures:
            lines.append(f"{what}: {figures[ours]:.2f} against {figures[theirs]:.2f}.")
    return lines


PAIRS = (
    ("BOSS's grid of four steps against the uniform one", ("boss", "boss-4"), ("teacher", "euler-4")),
    ("Straightened on that grid, against the teacher on it", ("phased", "boss-4"), ("boss", "boss-4")),
    ("FlowTurbo against Heun at four evaluations", ("flow_turbo", "flow_turbo-4"), ("teacher", "heun-2")),
    ("FlowTurbo against Heun at ten evaluations", ("flow_turbo", "flow_turbo-13"), ("teacher", "heun-5")),
)
"""Two rows side by side: an entry and a sampler of it each."""


def _one_step(students: Sequence[Result], metric: str, title: str, level: float) -> list[str]:
    if not students:
        return []
    ordered = sorted(students, key=lambda row: row.metrics[metric])
    near = [row for row in ordered if row.metrics[metric] <= ALLOWED * level]
    named = ", ".join(f"{row.title} {row.metrics[metric]:.2f}" for row in near)
    best = ordered[0].metrics[metric]
    return [
        f"With one evaluation {len(near)} of {len(students)} students are within 25 % of the teacher's ten ({title} {level:.2f})"
        f"{': ' + named if near else ''}. The best is {_verdict(best, level)} it."
    ]


def _verdict(value: float, level: float) -> str:
    return "at or below" if value <= level else "above"


def main(arguments: Sequence[str]) -> int:
    """Write the README, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of a finished study, to store first")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    try:
        if options.folder is not None:
            store(options.folder)
        stored = json.loads((RESULTS / STORED).read_text(encoding="utf-8"))
        return write_block(BENCHMARKS / "README.md", block(stored), ENDS, check=options.check)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
