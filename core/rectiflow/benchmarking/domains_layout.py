"""The page of the study of domains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rectiflow.benchmarking.curves import Panel, Series, draw_panels
from rectiflow.benchmarking.domains_table import ALLOWED, DomainResults, by_domain
from rectiflow.benchmarking.layout import Column, Figure, Layout, Line, Section, Table
from rectiflow.benchmarking.measurement import Measurement
from rectiflow.report_table import number

FLOWS = {"base": "before", "rectified": "after"}
SHOWN = (-0.25, 1.15)
"""Range of normalised quality that is drawn: far below the baseline one failure looks like another."""
QUICK = " Trained for a small share of their recipes: this says that everything runs, and how fast."
DASH, NO_BREAK = "\N{EN DASH}", "\N{NO-BREAK SPACE}"
ARROWS = {"lower": "↓", "higher": "↑", "one": "→ 1"}


def layout(measurements: Sequence[Measurement]) -> Layout:
    """What `rectiflow bench domains` shows."""
    domains = [domain for domain in by_domain(measurements) if domain.model is not None]
    notes = [note for domain in domains for note in domain.notes]
    quick = any(domain.model.facts.get("quick") for domain in domains if domain.model)
    sections = [
        _together(domains),
        *(_one(domain) for domain in domains if any(domain.line(flow, s) for flow in FLOWS for s in domain.solvers)),
        _costs(domains),
    ]
    if notes:
        sections.append(Section("Not measured", notes))
    return Layout(
        title="Domains: quality against evaluations, before and after rectification",
        summary=(
            "One trained flow and its rectified student in each domain, sampled from the same noise by several solvers. "
            "Quality is the domain's own metric; normalised, 1 is what real data (or the ideal answer) gets and 0 what "
            "something trivial gets." + (QUICK if quick else "")
        ),
        findings=[finding(domain) for domain in domains],
        sections=sections,
    )


def finding(domain: DomainResults) -> str:
    """Whether two evaluations after rectification are within a tenth of 32 before it, or by how much they are not."""
    verdict = domain.verdict
    if verdict is None:
        return f"{domain.name}: not measured both before and after rectification."
    before, after = (_with_interval(entry, domain.metric) for entry in (verdict.before, verdict.after))
    text = (
        f"{domain.name}: {domain.title} {after} with {verdict.few:g} evaluations {_after(domain)}, "
        f"{before} with {verdict.many:g} before; "
    )
    if math.isnan(verdict.lost):
        return text + "the flow before is no better than the baseline, so there is nothing to keep."
    change = (
        f"{100 * abs(verdict.lost):.0f}{NO_BREAK}% of normalised quality {'lost' if verdict.lost > 0 else 'gained'}"
    )
    text += f"{change}: {'within' if verdict.kept else 'not within'} {100 * ALLOWED:.0f}{NO_BREAK}%."
    best = domain.best("base")
    if best is None or best.figures["normalised"] <= verdict.before.figures["normalised"]:
        return text
    return f"{text} Its best before is {number(best.figures[domain.metric])}, {best.cell['solver']} with {best.figures['nfe']:g}."


def _together(domains: Sequence[DomainResults]) -> Section:
    nfe_panel, time_panel = [], []
    for index, domain in enumerate(domains):
        for flow, when in FLOWS.items():
            line = domain.line(flow, domain.own(flow))
            heights = [entry.figures["normalised"] for entry in line]
            hollow = flow == "base"
            label = domain.name if flow == "rectified" else f"{domain.name}, {when}"
            nfe_panel.append(Series(label, [e.figures["nfe"] for e in line], heights, index, hollow))
            time_panel.append(Series(label, [e.figures["ms"] / 1000 for e in line], heights, index, hollow))
    levels = [("floor", 1.0), ("baseline", 0.0)]
    nfe = sorted({float(e.cell["nfe"]) for domain in domains for e in domain.measurements if e.cell.get("nfe")})
    drawing = draw_panels(
        [
            Panel("", "evaluations of the network a sample", nfe_panel, levels),
            Panel("", "seconds of processor time a sample", time_panel, levels),
        ],
        y_label="normalised quality",
        y_range=SHOWN,
        ticks=(nfe, ()),
    )
    caption = (
        "Normalised quality of each domain's own sampler against evaluations and against time a sample; filled marks after "
        "rectification, hollow ones before it. Values below the panel are worse than the baseline."
    )
    return Section("All domains", [Figure(caption, [drawing]), _summary_table(domains)])


def _summary_table(domains: Sequence[DomainResults]) -> Table:
    columns = [
        Column("domain", "text"), Column("metric", "text"), Column("floor"), Column("baseline"),
        *(Column(f"{when}, {nfe}") for when, nfe in (("before", 2), ("before", 32), ("after", 1), ("after", 2))),
        Column("Q before, 32"), Column("Q after, 2"), Column("lost, %"), Column("within 10 %", "text"),
    ]  # fmt: skip
    lines = []
    for domain in domains:
        cells = [
            domain.own_cell(flow, nfe) for flow, nfe in (("base", 2), ("base", 32), ("rectified", 1), ("rectified", 2))
        ]
        verdict = domain.verdict
        lines.append(
            Line(
                [
                    domain.name,
                    _label(domain).replace(" ", NO_BREAK),
                    number(domain.floor),
                    number(domain.baseline),
                    *(_figure(cell, domain.metric) for cell in cells),
                    _figure(verdict.before if verdict else None, "normalised"),
                    _figure(verdict.after if verdict else None, "normalised"),
                    DASH if verdict is None or math.isnan(verdict.lost) else f"{100 * verdict.lost:.1f}",
                    DASH if verdict is None else "yes" if verdict.kept else "no",
                ],
                command=domain.model.command if domain.model else "",
            )
        )
    return Table(
        "Quality by the domain's own sampler (Euler's where that cannot have so many), at 2 and 32 evaluations before and 1 "
        "and 2 after rectification; Q is the normalised quality, and the last columns say what share of it two evaluations lose.",
        columns,
        lines,
        "Floor: " + "; ".join(f"{d.name}, {d.model.facts.get('floor', 'none')}" for d in domains if d.model)
        + ". Baseline: " + "; ".join(f"{d.name}, {d.model.facts.get('baseline', 'none')}" for d in domains if d.model) + ".",
    )  # fmt: skip


def _one(domain: DomainResults) -> Section:
    solvers = domain.solvers
    panels = []
    for flow in FLOWS:
        series = []
        for index, solver in enumerate(solvers):
            line = domain.line(flow, solver)
            ends = [entry.intervals.get(domain.metric) for entry in line]
            low = [end[0] for end in ends if end] if all(ends) and solver == domain.own(flow) else []
            high = [end[1] for end in ends if end] if all(ends) and solver == domain.own(flow) else []
            heights = [entry.figures[domain.metric] for entry in line]
            series.append(Series(solver, [e.figures["nfe"] for e in line], heights, index, False, low, high))
        levels = [
            (f"floor, {number(domain.floor)}", domain.floor),
            (f"baseline, {number(domain.baseline)}", domain.baseline),
        ]
        shown = [(label, height) for label, height in levels if math.isfinite(height)]
        panels.append(Panel(_when(domain, flow), "evaluations of the network a sample", series, shown))
    nfe = sorted(
        {float(e.cell["nfe"]) for e in domain.measurements if e.cell.get("part") == "quality" and e.cell["nfe"]}
    )
    label = _label(domain)
    drawing = draw_panels(panels, y_label=label, log_y=domain.better == "lower", ticks=(nfe, nfe))
    model = domain.model
    count = model.count if model else 0
    caption = f"{domain.name}: {domain.title} of {count} samples from the same noise, by solver."
    return Section(domain.name.capitalize(), [Figure(caption, [drawing]), _solver_table(domain, nfe)])


def _solver_table(domain: DomainResults, nfe: Sequence[float]) -> Table:
    """A line a flow and solver, a column a number of evaluations; what the adaptive one spent stands beside its value."""
    free = {str(e.cell["solver"]) for e in domain.measurements if e.cell.get("nfe") == 0 and e.figures}
    choice = [Column("its choice (NFE)")] if free else []
    columns = [Column("solver", "text"), *(Column(f"{count:g}") for count in nfe), *choice]
    lines = [
        _solver_line(domain, flow, solver, nfe, bool(free))
        for flow in FLOWS
        for solver in domain.solvers
        if domain.line(flow, solver)
    ]
    notes = ["Bold: the best of the column, before and after each for itself."]
    if "boss" in domain.solvers:
        notes.append("boss: Euler's method on the grid of least error for this flow.")
    notes += [f"{solver} chooses its evaluations, to a tolerance of 1e-3." for solver in sorted(free)]
    caption = f"{domain.name}: {_label(domain)} by evaluations a sample, before and after rectification."
    return Table(caption, columns, lines, " ".join(notes))


def _solver_line(domain: DomainResults, flow: str, solver: str, nfe: Sequence[float], choice: bool) -> Line:
    line = domain.line(flow, solver)
    adaptive = next((entry for entry in line if entry.cell["nfe"] == 0), None)
    values = [_figure(domain.cell(flow, solver, count), domain.metric) for count in nfe]
    best = [_best(domain, flow, count) for count in nfe]
    strong = frozenset(1 + place for place, value in enumerate(values) if value == best[place] != DASH)
    free = [f"{number(adaptive.figures[domain.metric])} ({adaptive.figures['nfe']:.0f})" if adaptive else ""]
    name = f"{solver} (own)" if solver == domain.own(flow) else solver
    return Line(
        [name, *values, *(free if choice else [])], command=line[0].command, group=_when(domain, flow), strong=strong
    )


def _best(domain: DomainResults, flow: str, nfe: float) -> str:
    cells = [domain.cell(flow, solver, nfe) for solver in domain.solvers]
    held = [cell for cell in cells if cell is not None and math.isfinite(cell.figures["normalised"])]
    if len(held) < 2:
        return DASH
    return _figure(max(held, key=lambda cell: cell.figures["normalised"]), domain.metric)


def _costs(domains: Sequence[DomainResults]) -> Section:
    columns = [
        Column("flow", "text"), Column("parameters, M"), Column("straightness"), Column("transport cost"),
        Column("ms a sample and evaluation"), Column("network share, %"), Column("updates/s"), Column("ms an update"),
        Column("peak sampling, MB"), Column("peak training, MB"),
    ]  # fmt: skip
    lines = []
    for domain in domains:
        for flow, when in FLOWS.items():
            model = domain.part("model", flow)
            if model is None:
                continue
            line = domain.line(flow, domain.own(flow))
            each = line[-1].figures["ms"] / line[-1].figures["nfe"] if line else math.nan
            share = 100 * line[-1].figures["network_share"] if line else math.nan
            paths, sampling, training = (domain.part(part, flow) for part in ("paths", "sampling", "training"))
            lines.append(
                Line(
                    [
                        when,
                        number(model.figures["parameters"] / 1e6),
                        _figure(paths, "straightness"),
                        _figure(paths, "transport_cost"),
                        number(each),
                        number(share),
                        _figure(training, "updates_per_second"),
                        _figure(training, "update_ms"),
                        _whole(sampling, "peak_mb"),
                        _whole(training, "peak_mb"),
                    ],
                    command=paths.command if paths else model.command,
                    group=domain.name,
                )
            )
    return Section(
        "Geometry and cost",
        [
            Table(
                "Paths and costs of the flows. Straightness is the mean squared deviation of the velocity from the chord, "
                "relative to the chord (0: one Euler step is exact); the transport cost is the mean squared distance from noise "
                "to sample.",
                columns,
                lines,
                "Milliseconds are processor time where the processor does the work; updates a second are by the clock, beside "
                "whatever else ran. Peak memory is that of a process of its own with all that it imports.",
            )
        ],
    )


def _when(domain: DomainResults, flow: str) -> str:
    run = domain.run(flow)
    return f"{FLOWS[flow]} rectification" if run in ("base", "rectified") else f"{FLOWS[flow]}: {run}"


def _after(domain: DomainResults) -> str:
    run = domain.run("rectified")
    return "after rectification" if run == "rectified" else f"of the {run} flow"


def _label(domain: DomainResults) -> str:
    return f"{domain.title} {ARROWS[domain.better]}"


def _with_interval(entry: Measurement, name: str) -> str:
    ends = entry.intervals.get(name)
    return number(entry.figures[name]) + (f" ({number(ends[0])} to {number(ends[1])})" if ends else "")


def _figure(entry: Measurement | None, name: str) -> str:
    value = entry.figures.get(name, math.nan) if entry else math.nan
    return number(value)


def _whole(entry: Measurement | None, name: str) -> str:
    value = entry.figures.get(name, math.nan) if entry else math.nan
    return DASH if math.isnan(value) else f"{value:.0f}"
