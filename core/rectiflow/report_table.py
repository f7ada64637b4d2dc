"""The headline table: one row a sampler setting, references first, the best value of each metric marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectiflow.records import Evaluation, Metric, Reference, Row, nfe_label


@dataclass(frozen=True)
class RunRecord:
    """One run as the report sees it; `history` is its metrics.jsonl, `figures` its metrics.json."""

    label: str
    folder: Path
    evaluation: Evaluation
    figures: dict[str, float]
    history: list[dict[str, Any]]
    config: str | None


@dataclass(frozen=True)
class Column:
    """One metric; `better` is None when no run says which direction wins."""

    name: str
    title: str
    better: str | None
    primary: bool

    def score(self, value: float) -> float:
        """Order values: the smaller the score, the better; NaN comes last."""
        if math.isnan(value):
            return math.inf
        return {"lower": value, "higher": -value, "one": abs(value - 1)}[self.better or "lower"]

    @property
    def direction(self) -> str:
        """A mark for the head of the column."""
        return {"lower": "↓", "higher": "↑", "one": "→ 1", None: ""}[self.better]


@dataclass(frozen=True)
class Cell:
    """A figure as printed."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class TableRow:
    """One line of the table: a reference, or a setting with the number of its command (from 1)."""

    cells: list[Cell]
    count: int
    row: Row | None = None
    reference: Reference | None = None
    command: int = 0


def columns_of(records: Sequence[RunRecord]) -> list[Column]:
    """Collect the declared metrics that were measured, in their order, primary first; where none is declared, all.

    Figures that a domain measures and does not declare stay in `metrics.json`, out of the table.
    """
    declared: dict[str, Metric] = {}
    for record in records:
        declared.update({metric.name: metric for metric in record.evaluation.metrics})
    seen = dict.fromkeys(name for record in records for entry in _measured(record.evaluation) for name in entry.metrics)
    columns = [Column(m.name, m.title, m.better, m.primary) for m in declared.values() if m.name in seen]
    columns.sort(key=lambda column: not column.primary)
    return columns if declared else [Column(name, name, None, False) for name in seen]


def ordered_rows(evaluation: Evaluation) -> list[Row]:
    """Sort rows by guidance, by method in order of first appearance, then by NFE."""
    methods = list(dict.fromkeys(row.method for row in evaluation.rows))
    return sorted(evaluation.rows, key=lambda row: (row.guidance, methods.index(row.method), row.nfe))


def commands_of(records: Sequence[RunRecord]) -> list[str]:
    """List the distinct commands behind the rows, in the order of the table."""
    return list(dict.fromkeys(row.command for record in records for row in ordered_rows(record.evaluation)))


def reference_rows(records: Sequence[RunRecord], columns: Sequence[Column]) -> list[TableRow]:
    """Lay out the references, each once when several runs share it."""
    return [TableRow(_cells(entry, columns, {}), entry.count, reference=entry) for entry in references_of(records)]


def setting_rows(records: Sequence[RunRecord], columns: Sequence[Column]) -> list[tuple[str, list[TableRow]]]:
    """Lay out every run's settings under its label, with the best value of each column over all runs marked."""
    best = {column.name: _best_text(records, column) for column in columns}
    commands = commands_of(records)
    return [
        (
            record.label,
            [
                TableRow(_cells(row, columns, best), row.count, row=row, command=commands.index(row.command) + 1)
                for row in ordered_rows(record.evaluation)
            ],
        )
        for record in records
    ]


def references_of(records: Sequence[RunRecord]) -> list[Reference]:
    """List the runs' references without repetition, floors first; the last run to measure one has the last word."""
    found = {(entry.key, entry.count): entry for record in records for entry in record.evaluation.references}
    return sorted(found.values(), key=lambda entry: entry.kind != "floor")


def headline(records: Sequence[RunRecord], columns: Sequence[Column]) -> str:
    """Say in one sentence what the first primary metric shows; empty when there is nothing to say it with."""
    measured = [record for record in records if record.evaluation.rows]
    column = next((entry for entry in columns if entry.primary), None)
    if column is None or not measured:
        return ""
    last = measured[-1]
    lowest = min(row.nfe for row in last.evaluation.rows)
    ours = _best_row([row for row in last.evaluation.rows if row.nfe == lowest], column)
    if ours is None:
        return ""
    subject = last.label[:1].upper() + last.label[1:]
    sentence = f"{subject} reaches {column.title} {_value(ours, column)} with {_evaluations(ours.nfe)}"
    if len(measured) == 1:
        best = _best_row(last.evaluation.rows, column)
        if best is None or best.key == ours.key:
            return sentence + "."
        return f"{sentence} and {_value(best, column)} with {_evaluations(best.nfe)}, its best."
    return sentence + _comparison(measured[0], ours, column)


def number(value: float) -> str:
    """Write a figure with three significant digits and no exponent where it can be helped."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    decimals = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def _comparison(first: RunRecord, ours: Row, column: Column) -> str:
    target = column.score(ours.metrics[column.name])
    there = _best_row([row for row in first.evaluation.rows if row.nfe == ours.nfe], column)
    text = f"; {first.label} has {_value(there, column)} there" if there else f"; {first.label} was not measured there"
    if there and column.score(there.metrics[column.name]) <= target:
        return text + ", which is as good or better."
    equal = [row for row in first.evaluation.rows if column.score(row.metrics.get(column.name, math.nan)) <= target]
    if not equal:
        return text + " and nowhere, at any setting measured, a value as good."
    match = min(equal, key=lambda row: row.nfe)
    return f"{text} and needs {nfe_label(match.nfe)} for a value as good ({_value(match, column)})."


def _best_row(rows: Sequence[Row], column: Column) -> Row | None:
    held = [row for row in rows if not math.isnan(row.metrics.get(column.name, math.nan))]
    return min(held, key=lambda row: (column.score(row.metrics[column.name]), row.nfe), default=None)


def _best_text(records: Sequence[RunRecord], column: Column) -> str | None:
    rows = [row for record in records for row in record.evaluation.rows]
    best = _best_row(rows, column) if column.better and len(rows) > 1 else None
    return None if best is None else number(best.metrics[column.name])


def _cells(entry: Row | Reference, columns: Sequence[Column], best: dict[str, str | None]) -> list[Cell]:
    texts = [(column.name, number(entry.metrics.get(column.name, math.nan))) for column in columns]
    return [Cell(text, best=text == best.get(name)) for name, text in texts]


def _measured(evaluation: Evaluation) -> list[Row | Reference]:
    return [*evaluation.rows, *evaluation.references]


def _value(row: Row, column: Column) -> str:
    return number(row.metrics[column.name])


def _evaluations(nfe: float) -> str:
    return f"{nfe_label(nfe)} function evaluation{'' if nfe == 1 else 's'}"
