"""The page of the study of peers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rectiflow.benchmarking.contest import OURS
from rectiflow.benchmarking.curves import Panel, Series, draw_panels
from rectiflow.benchmarking.layout import Column, Figure, Layout, Line, Section, Table
from rectiflow.benchmarking.measurement import Measurement
from rectiflow.benchmarking.peers.errors import BUDGETS
from rectiflow.benchmarking.peers.training import BARE_LOOP
from rectiflow.report_table import number

ALLOWED_IN_TRAINING = 1.05
TIMED = {
    "sampling": ("Overhead of a step of sampling", "What a library's loop adds to the network, a step."),
    "training": ("One update of training", "Processor time of one update."),
    "transport": ("Minibatch optimal transport", "Processor time from two batches to their pairs."),
    "domains": ("Work of the domains", "Processor time of the same work."),
}


def layout(measurements: Sequence[Measurement]) -> Layout:
    """What `rectiflow bench peers` shows."""
    found = [entry for entry in measurements if entry.figures]
    absent = sorted(
        {f"{entry.cell['peer']}: {entry.note}" for entry in measurements if not entry.figures and entry.note}
    )
    sections = [_timed(part, [entry for entry in found if entry.cell["part"] == part]) for part in TIMED]
    sections += [_errors(found), _adaptive(found), _learning(found)]
    if absent:
        sections.append(Section("Left out", absent))
    return Layout(
        title="Peers: the same work in the same run",
        summary=(
            "The same network, data and budget in every library, runs taking turns on one thread. Ratios are ours over theirs, "
            "of medians over rounds, with a bootstrap interval of 95 %: below 1 we are ahead. Results that should be equal are "
            "compared first."
        ),
        findings=[*_equalities(found), *_verdicts(found)],
        sections=[section for section in sections if section.blocks],
    )


def _equalities(found: Sequence[Measurement]) -> list[str]:
    compared = [entry for entry in found if entry.cell["peer"] != OURS and not math.isnan(_difference(entry))]
    wrong = [entry.label for entry in compared if not _equal(entry)]
    if not compared:
        return []
    if wrong:
        return [f"Results that should be equal and are not: {'; '.join(wrong)}."]
    return [f"All {len(compared)} results that should be equal to ours are, to the tolerance in the tables."]


def _verdicts(found: Sequence[Measurement]) -> list[str]:
    """A sentence for each bar: overhead ahead of all, an update within 5 % of a bare loop, transport ahead."""
    lines = []
    for part, limit, text in (
        ("sampling", 1.0, "Overhead of a step"),
        ("training", ALLOWED_IN_TRAINING, "An update against a bare PyTorch loop"),
        ("transport", 1.0, "Minibatch optimal transport"),
    ):
        rivals = [entry for entry in found if entry.cell["part"] == part and entry.cell["peer"] != OURS]
        if part == "training":
            rivals = [entry for entry in rivals if entry.cell["peer"] == BARE_LOOP]
        for case in dict.fromkeys(entry.cell["case"] for entry in rivals):
            nearest = max(
                (entry for entry in rivals if entry.cell["case"] == case), key=lambda entry: entry.figures["ratio"]
            )
            low, high = nearest.intervals.get("ratio", (math.nan, math.nan))
            verdict = "held" if high < limit else "missed" if low > limit else "not decided by this run"
            lines.append(
                f"{text}, {case}: {number(nearest.figures['ratio'])} [{number(low)}, {number(high)}] of "
                f"{nearest.cell['peer']}'s, the nearest; bar {limit:g}: {verdict}."
            )
    return lines


def _difference(entry: Measurement) -> float:
    return entry.figures.get("difference", math.nan)


def _equal(entry: Measurement) -> bool:
    return _difference(entry) <= entry.figures["tolerance"]


def _timed(part: str, found: Sequence[Measurement]) -> Section:
    title, caption = TIMED[part]
    columns = [
        Column("library", "text"), Column("µs"), Column("ours / theirs"), Column("95 %", "text"), Column("elapsed"),
        Column("difference"), Column("equal", "text"),
    ]  # fmt: skip
    lines = []
    for case in dict.fromkeys(str(entry.cell["case"]) for entry in found):
        entries = [entry for entry in found if entry.cell["case"] == case]
        unit = entries[0].note.partition(";")[0]
        for entry in sorted(entries, key=lambda entry: (entry.cell["peer"] != OURS, entry.figures["microseconds"])):
            lines.append(_timed_line(entry, f"{case} ({unit})"))
    notes = dict.fromkeys(entry.note.partition("; ")[2] for entry in found)
    table = Table(caption, columns, lines, note=" ".join(f"{note[:1].upper()}{note[1:]}." for note in notes if note))
    return Section(title, [table, *_pair_quality(found)] if lines else [])


def _timed_line(entry: Measurement, group: str) -> Line:
    ours = entry.cell["peer"] == OURS
    low, high = entry.intervals.get("ratio", (math.nan, math.nan))
    differs = _difference(entry)
    told = "" if ours or math.isnan(differs) else "yes" if _equal(entry) else "no"
    cells = [
        str(entry.cell["peer"]),
        number(entry.figures["microseconds"]),
        "" if ours else number(entry.figures["ratio"]),
        "" if ours else f"{number(low)} to {number(high)}",
        "" if ours else number(entry.figures["clock_ratio"]),
        "" if ours or math.isnan(differs) else number(differs),
        told,
    ]
    return Line(cells, entry.command, group, muted=ours)


def _pair_quality(found: Sequence[Measurement]) -> list[str]:
    return [
        f"{entry.cell['case']}: the coupled batch of {entry.cell['peer']} holds "
        f"{100 * entry.figures['rows_used']:.0f} % of the data rows."
        for entry in found
        if "rows_used" in entry.figures
    ]


def _errors(found: Sequence[Measurement]) -> Section:
    entries = [entry for entry in found if entry.cell["part"] == "error" and "error" in entry.figures]
    if not entries:
        return Section("Error at equal evaluations", [])
    methods = dict.fromkeys((str(entry.cell["peer"]), str(entry.cell["case"]).split()[0]) for entry in entries)
    lines, ours, others = [], list[Series](), list[Series]()
    for peer, method in methods:
        own = [
            entry for entry in entries if entry.cell["peer"] == peer and str(entry.cell["case"]).split()[0] == method
        ]
        own.sort(key=lambda entry: entry.figures["nfe"])
        cells = [f"{number(entry.figures['error'])} ({entry.figures['nfe']:g})" for entry in own]
        lines.append(Line([method, *cells], own[0].command, peer))
        curves, label = (ours, method) if peer == OURS else (others, f"{peer}, {method}")
        curves.append(Series(label, *_curve(own), len(curves), peer != OURS))
    columns = [Column("solver", "text"), *(Column(f"about {budget}") for budget in BUDGETS)]
    caption = (
        "Distance from the exact end of a flow known in closed form (eight narrow modes in the plane), and in brackets the "
        "evaluations made."
    )
    panels = [Panel("ours", "evaluations", ours), Panel("others", "evaluations", others)]
    drawing = draw_panels(panels, y_label="root mean squared error", log_y=True, ticks=[BUDGETS, BUDGETS])
    figure = Figure("The same as curves: ours to the left, other libraries' to the right.", [drawing])
    return Section("Error at equal evaluations", [Table(caption, columns, lines), figure])


def _curve(points: Sequence[Measurement]) -> tuple[list[float], list[float]]:
    return [entry.figures["nfe"] for entry in points], [entry.figures["error"] for entry in points]


def _adaptive(found: Sequence[Measurement]) -> Section:
    entries = [entry for entry in found if entry.cell["part"] == "adaptive"]
    points = [entry for entry in entries if "error" in entry.figures]
    if not points:
        return Section("The adaptive solver", [])
    curves = [
        Series(peer, *_curve([entry for entry in points if entry.cell["peer"] == peer]), place)
        for place, peer in enumerate(dict.fromkeys(str(entry.cell["peer"]) for entry in points))
    ]
    drawing = draw_panels([Panel("", "evaluations", curves)], y_label="root mean squared error", log_y=True)
    blocks: list[str | Table | Figure] = [Figure("dopri5 at tolerances from 1e-3 to 1e-9 on the same flow.", [drawing])]
    for entry in entries:
        if "ratio" in entry.figures:
            low, high = entry.intervals["ratio"]
            blocks.insert(
                0,
                f"At equal error ours spends {number(entry.figures['ratio'])} of torchdiffeq's evaluations "
                f"({number(low)} to {number(high)} over the errors measured).",
            )
    return Section("The adaptive solver", blocks)


def _learning(found: Sequence[Measurement]) -> Section:
    entries = [entry for entry in found if entry.cell["part"] == "learning" and "distance_2" in entry.figures]
    columns = [
        Column("loss of", "text"),
        Column("2 steps"),
        Column("95 %", "text"),
        Column("32 steps"),
        Column("95 %", "text"),
    ]
    lines = []
    for entry in sorted(entries, key=lambda entry: entry.figures["distance_32"]):
        cells = [str(entry.cell["peer"])]
        for name in ("distance_2", "distance_32"):
            low, high = entry.intervals[name]
            cells += [number(entry.figures[name]), f"{number(low)} to {number(high)}"]
        lines.append(Line(cells, entry.command, str(entry.cell["case"])))
    caption = "Sliced Wasserstein distance to fresh data after the same updates of the same network, mean over seeds."
    return Section("What is learned", [Table(caption, columns, lines)] if lines else [])
