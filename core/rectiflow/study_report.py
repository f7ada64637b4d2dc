"""What a study leaves behind: results.json, a table in Markdown, a figure and one page."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rectiflow.records import machine_info, nfe_label, write_atomically
from rectiflow.report_figures import COLOURS, INK, MARKERS, MUTED
from rectiflow.study import Study

STYLES = ("-", "--", ":")


@dataclass(frozen=True)
class Result:
    """One row: an entry with a sampler, its figures, and what it cost.

    `training_seconds` is processor time, pairs included, and `teacher_evaluations` at how many states the teacher was evaluated
    for it; `milliseconds` a sample on one thread; `strip` a picture of samples; `command` measures the row again.
    """

    entry: str
    title: str
    sampler: str
    nfe: float
    parameters: int
    training_seconds: float
    metrics: dict[str, float]
    milliseconds: float
    strip: Path | None = None
    command: str = ""
    teacher_evaluations: float = 0.0


def write_study(
    folder: Path, study: Study, results: Sequence[Result], *, title: str, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write results.json, with further facts of the run, table.md, few_steps.png and report.html, and return the page's path.

    Raises:
        StorageError: a file cannot be written.
    """
    bar = next((result for result in results if (result.entry, result.sampler) == study.bar), None)
    rows = [{**asdict(result), "strip": str(result.strip) if result.strip else None} for result in results]
    everything = {"machine": machine_info(), **(facts or {}), "rows": rows}
    write_atomically(folder / "results.json", json.dumps(everything, indent=1) + "\n")
    table = markdown_table(study, results)
    write_atomically(folder / "table.md", table)
    figure = _figure(study, results, bar)
    figure.savefig(folder / "few_steps.png", dpi=130)
    print(table)
    page = folder / "report.html"
    write_atomically(page, _page(folder, study, results, bar, title))
    return page


def markdown_table(study: Study, results: Sequence[Result]) -> str:
    """The rows as a table."""
    titles = list(study.metrics.values())
    lines = [
        f"| method | sampler | NFE | {' | '.join(titles)} | ms/sample | parameters | training CPU s | teacher evaluations |"
    ]
    lines.append("|---" * (7 + len(titles)) + "|")
    for result in results:
        figures = " | ".join(f"{result.metrics.get(name, math.nan):.3g}" for name in study.metrics)
        cost = f"{result.milliseconds:.2f} | {result.parameters / 1e6:.2f} M | {result.training_seconds:.0f}"
        asked = f"{result.teacher_evaluations / 1000:.0f} k" if result.teacher_evaluations else "0"
        lines.append(f"| {result.title} | {result.sampler} | {nfe_label(result.nfe)} | {figures} | {cost} | {asked} |")
    return "\n".join(lines) + "\n"


def solver_of(sampler: str) -> str:
    """The method's name in a sampler's: euler of euler-10."""
    return sampler.rpartition("-")[0] or sampler


def _figure(study: Study, results: Sequence[Result], bar: Result | None) -> Figure:
    """The first metric over NFE, a line an entry and solver, beside the bar."""
    name, label = next(iter(study.metrics.items()))
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, entry in enumerate(dict.fromkeys(result.entry for result in results)):
        own = [result for result in results if result.entry == entry]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        methods = list(dict.fromkeys(solver_of(result.sampler) for result in own))
        for method, style in zip(methods, cycle(STYLES)):
            points = sorted((r.nfe, r.metrics[name]) for r in own if solver_of(r.sampler) == method)
            title = own[0].title if len(methods) == 1 else f"{own[0].title}, {method}"
            axes.plot(*zip(*points, strict=True), style, color=colour, marker=marker, lw=1.4, ms=5, label=title)
    if bar is not None:
        axes.axhline(bar.metrics[name], color=MUTED, ls=":", lw=1, label=f"{bar.title}, {bar.sampler}")
        axes.axhspan(bar.metrics[name], 1.25 * bar.metrics[name], color=MUTED, alpha=0.12, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel=label)
    axes.set_xticks([1, 2, 4, 10, 40], ["1", "2", "4", "10", "40"])
    axes.tick_params(colors=INK, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _page(folder: Path, study: Study, results: Sequence[Result], bar: Result | None, title: str) -> str:
    name, label = next(iter(study.metrics.items()))
    cells = [line.strip("|").split("|") for line in markdown_table(study, results).splitlines()]
    head = "".join(f"<th>{html.escape(cell.strip())}</th>" for cell in cells[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell.strip())}</td>" for cell in row) + "</tr>" for row in cells[2:]
    )
    strips = "".join(
        f"<figure><img src='{_embedded(result.strip)}' alt=''><figcaption>{html.escape(result.title)}, "
        f"{html.escape(result.sampler)}, {nfe_label(result.nfe)} NFE: {html.escape(label)} "
        f"{result.metrics[name]:.3g}</figcaption></figure>"
        for result in results
        if result.strip is not None and (result.nfe <= 1 or result == bar)
    )
    machine = machine_info()
    facts = f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, commit {machine['commit']}"
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1100px;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;font-size:13px}td,th{padding:.25rem .6rem;text-align:right}"
        "tr{border-bottom:1px solid #e3e7ec}td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}"
        "img{max-width:100%;image-rendering:pixelated}"
        "figure{margin:1rem 0}figcaption{color:#6b7785}"
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title><style>{style}</style>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(study.summary)}. {html.escape(facts)}.</p>"
        f"<img src='{_embedded(folder / 'few_steps.png')}' alt='{html.escape(label)} over evaluations'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<h2>One evaluation, from the same noise</h2>{strips}</html>\n"
    )


def _embedded(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""
