"""The page of the study of scaling."""

from __future__ import annotations

from collections.abc import Sequence

from rectiflow.benchmarking.curves import Panel, Series, draw_panels
from rectiflow.benchmarking.layout import Column, Figure, Layout, Line, Section, Table
from rectiflow.benchmarking.measurement import Measurement
from rectiflow.benchmarking.scaling.study import FIT, sizes_of
from rectiflow.report_table import number

PARTS = {"core": "Pieces of the core", "domains": "Networks of the domains"}
YES_NO = {1.0: "yes", 0.0: "no"}


def layout(measurements: Sequence[Measurement]) -> Layout:
    """What `rectiflow bench scaling` shows."""
    sections = [
        _costs(title, [entry for entry in measurements if entry.cell["part"] == part]) for part, title in PARTS.items()
    ]
    sections.append(_processes(measurements))
    left_out = [f"{entry.cell['case']}: {entry.note}" for entry in measurements if not entry.figures and entry.note]
    if left_out:
        sections.append(Section("Not measured", left_out))
    return Layout(
        title="Scaling: cost against size, and processes",
        summary=(
            "Processor time of one call on one thread at each size, and the exponents of power laws fitted to it (least squares "
            "of the logarithms, 95 % intervals): over all sizes, and over the larger half of them, where fixed costs count less."
        ),
        findings=_findings(measurements),
        sections=[section for section in sections if section.blocks],
    )


def _findings(measurements: Sequence[Measurement]) -> list[str]:
    lines = []
    for entry in measurements:
        if entry.cell["case"] == "two processes" and entry.figures:
            same = "equal" if entry.figures["equal"] else "NOT equal"
            lines.append(
                f"Two processes come to weights that are {same} to the bit to those of one process that accumulates two "
                f"micro-steps; each handles {100 * entry.figures['efficiency']:.0f} % of the samples a second of a process alone."
            )
    fits = [entry for entry in measurements if entry.cell["size"] == FIT and "exponent" in entry.figures]
    if fits:
        steepest = max(fits, key=lambda entry: entry.figures["exponent_large"])
        lines.append(
            f"The steepest cost is that of {steepest.cell['case']} in {steepest.cell['axis']}: exponent "
            f"{number(steepest.figures['exponent_large'])} over the larger sizes."
        )
    return lines


def _costs(title: str, found: Sequence[Measurement]) -> Section:
    pairs = dict.fromkeys((str(entry.cell["case"]), str(entry.cell["axis"])) for entry in found if entry.figures)
    lines, panels, cases = [], dict[str, list[Series]](), list(dict.fromkeys(case for case, _ in pairs))
    for case, axis in pairs:
        own = [entry for entry in found if entry.cell["case"] == case and entry.cell["axis"] == axis]
        points, fit = sizes_of(own), next((entry for entry in own if entry.cell["size"] == FIT), None)
        if fit is None or not points:
            continue
        series = panels.setdefault(axis, [])
        series.append(
            Series(case, [float(e.cell["size"]) for e in points], [e.figures["ms"] for e in points], cases.index(case))
        )
        lines.append(Line([axis, *_range(points), *_exponents(fit)], fit.command, case))
    columns = [
        Column("what grows", "text"), Column("from", "text"), Column("ms"), Column("to", "text"), Column("ms"),
        Column("exponent"), Column("95 %", "text"), Column("larger half"), Column("95 %", "text"),
    ]  # fmt: skip
    if not lines:
        return Section(title, [])
    drawing = draw_panels([Panel("", axis, series) for axis, series in panels.items()], y_label="ms", log_y=True)
    return Section(title, [Table("Cost of one call.", columns, lines), Figure("Cost against size.", [drawing])])


def _range(points: Sequence[Measurement]) -> list[str]:
    first, last = points[0], points[-1]
    return [
        f"{first.cell['size']:g}",
        number(first.figures["ms"]),
        f"{last.cell['size']:g}",
        number(last.figures["ms"]),
    ]


def _exponents(fit: Measurement) -> list[str]:
    cells = []
    for name in ("exponent", "exponent_large"):
        low, high = fit.intervals[name]
        cells += [number(fit.figures[name]), f"{number(low)} to {number(high)}"]
    return cells


def _processes(measurements: Sequence[Measurement]) -> Section:
    found = [entry for entry in measurements if entry.cell["case"] == "two processes" and entry.figures]
    if not found:
        return Section("Processes", [])
    entry = found[0]
    told = {
        "weights equal to the bit to one process with two micro-steps": YES_NO[entry.figures["equal"]],
        "both ranks hold the same bits": YES_NO[entry.figures["ranks_agree"]],
        "a second run gives the same bits": YES_NO[entry.figures["repeats"]],
        "samples a second, one process": number(entry.figures["one_process"]),
        "samples a second, two processes": number(entry.figures["two_processes"]),
        "efficiency, the same batch in each process": number(entry.figures["efficiency"]),
        "efficiency, half the batch in each process": number(entry.figures["efficiency_fixed_batch"]),
        "all-reduce: fixed cost, µs": number(entry.figures["latency_us"]),
        "all-reduce: gigabytes a second": number(entry.figures["gigabytes_per_second"]),
        "parameters": number(entry.figures["parameters"]),
    }
    lines = [Line([name, value], entry.command) for name, value in told.items()]
    table = Table("Training in two processes.", [Column("figure", "text"), Column("value")], lines, note=entry.note)
    model = (
        "An update of W processes with P parameters in float32 takes the update of one process plus the all-reduce, "
        "latency + 4 P / bandwidth on this machine; docs/scaling.md says what to expect of more."
    )
    return Section("Processes", [model, table])
