"""The page of a domain's study of few-step students."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rectiflow.benchmarking.curves import PALETTE, Panel, Series, draw_panels
from rectiflow.benchmarking.layout import Column, Figure, Layout, Line, Section, Table
from rectiflow.benchmarking.measurement import Measurement
from rectiflow.benchmarking.students import TITLE
from rectiflow.records import nfe_label
from rectiflow.report_table import number
from rectiflow.study_report import solver_of

ALLOWED = 0.25
"""How much worse than the bar one evaluation may be."""
TICKS = (1.0, 2.0, 4.0, 10.0, 40.0)


def layout(measurements: Sequence[Measurement]) -> Layout:
    """What `rectiflow bench few-step`, or another domain's study of students, adds to the page of all studies."""
    metric, title = next(iter(_metrics(measurements[0]).items()))
    bar = next((entry for entry in measurements if entry.facts.get("bar") == "yes"), None)
    return Layout(
        title=f"Few steps: students of one teacher, {measurements[0].cell['domain']}",
        summary=(
            "Students by many methods, each with the same number of updates and the same teacher, sampled from the same noise. "
            "Training is in seconds of processor time, pairs included, without the teacher's own."
        ),
        findings=[] if bar is None else _findings(measurements, bar, metric, title),
        sections=[Section("Quality and cost", [_figure(measurements, bar, metric, title), _table(measurements)])],
    )


def _findings(found: Sequence[Measurement], bar: Measurement, metric: str, title: str) -> list[str]:
    level = bar.figures[metric]
    students = [entry for entry in found if entry.figures["nfe"] == 1 and entry.cell["entry"] != bar.cell["entry"]]
    if not students:
        return []
    near = [entry for entry in students if entry.figures[metric] <= (1 + ALLOWED) * level]
    best = min(students, key=lambda entry: entry.figures[metric])
    smallest = min(students, key=lambda entry: entry.figures["parameters"])
    against = f"{bar.facts['title']}, {nfe_label(bar.figures['nfe'])} evaluations: {title} {number(level)}"
    named = "; ".join(f"{entry.facts['title']} {number(entry.figures[metric])}" for entry in near)
    findings = [
        f"With one evaluation {len(near)} of {len(students)} students are within {100 * ALLOWED:.0f} % of the bar "
        f"({against}){': ' + named if near else ''}.",
        f"The best of one evaluation is {best.facts['title']}, {title} {number(best.figures[metric])}: "
        f"{'at or below' if best.figures[metric] <= level else 'above'} the bar.",
    ]
    share = smallest.figures["parameters"] / bar.figures["parameters"]
    if share < 1:
        findings.append(
            f"{smallest.facts['title']}: {100 * share:.0f} % of the teacher's parameters, "
            f"{title} {number(smallest.figures[metric])} with one evaluation."
        )
    return findings


def _figure(found: Sequence[Measurement], bar: Measurement | None, metric: str, title: str) -> Figure:
    quality, cost = [], []
    for index, name in enumerate(dict.fromkeys(str(entry.cell["entry"]) for entry in found)):
        own = sorted((e for e in found if e.cell["entry"] == name), key=lambda e: e.figures["nfe"])
        label, again = own[0].facts["title"], index >= len(PALETTE)  # colours come round again, hollow then
        methods = list(dict.fromkeys(solver_of(str(entry.cell["sampler"])) for entry in own))
        for method in methods:
            line = [entry for entry in own if solver_of(str(entry.cell["sampler"])) == method]
            name_of_line = label if len(methods) == 1 else f"{label}, {method}"
            nfes, heights = [entry.figures["nfe"] for entry in line], [entry.figures[metric] for entry in line]
            quality.append(Series(name_of_line, nfes, heights, index, again))
        if own[0].figures["nfe"] == 1 and (bar is None or name != bar.cell["entry"]):
            cost.append(Series(label, [own[0].figures["training_seconds"]], [own[0].figures[metric]], index, again))
    levels = [] if bar is None else [(f"bar: {bar.facts['title']}", bar.figures[metric])]
    panels = [Panel("", "evaluations of the network", quality, levels)]
    if cost:
        panels.append(Panel("one evaluation", "processor seconds of training", cost, levels))
    ticks = [TICKS, *([_round_numbers([x for series in cost for x in series.x])] if cost else [])]
    drawing = draw_panels(panels, y_label=title, log_y=True, ticks=ticks)
    return Figure(f"{title} against evaluations, and of one evaluation against the cost of the student.", [drawing])


def _round_numbers(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around positive values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    numbers = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    below = max(number for number in numbers if number <= min(values))
    return [number for number in numbers if below <= number <= max(below, *values)]


def _table(found: Sequence[Measurement]) -> Table:
    metrics = _metrics(found[0])
    columns = [
        Column("sampler", "text"), Column("NFE"), *map(Column, metrics.values()), Column("of the bar"), Column("ms/sample"),
        Column("parameters, M"), Column("training, s"), Column("teacher evaluations, k"),
    ]  # fmt: skip
    lines = [
        Line(
            [
                str(entry.cell["sampler"]),
                nfe_label(entry.figures["nfe"]),
                *(number(entry.figures.get(name, math.nan)) for name in metrics),
                number(entry.figures.get("to_bar", math.nan)),
                number(entry.figures["milliseconds"]),
                number(entry.figures["parameters"] / 1e6),
                number(entry.figures["training_seconds"]),
                number(entry.figures.get("teacher_evaluations", math.nan) / 1000),
            ],
            command=entry.command,
            group=entry.facts["title"],
            muted=entry.facts.get("bar") == "yes",
        )
        for entry in found
    ]
    first = next(iter(metrics.values()))
    note = (
        f"Of the bar: {first} over that of the row in grey. Milliseconds are medians, on one thread. Teacher evaluations are the "
        "states it was asked at in training, pairs and grids included. Students of one step have rows of one evaluation only."
    )
    return Table(f"Every student and sampler, {found[0].count} samples.", columns, lines, note)


def _metrics(entry: Measurement) -> dict[str, str]:
    """Titles by name, the first of what is drawn."""
    return {name.removeprefix(TITLE): text for name, text in entry.facts.items() if name.startswith(TITLE)}
