"""Line figures as inline SVG: no global matplotlib state, no address in the markup, text that stays text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

COLOURS = ("#75849a", "#c4512d", "#2f6f8f", "#5b8c5a", "#8f6bb3", "#b08a2e")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, MUTED, RULE = "#1f2933", "#6b7785", "#e3e7ec"


@dataclass(frozen=True)
class Line:
    """One curve: its points, its run (which gives the colour) and its place among that run's curves (the marker)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    run: int = 0
    variant: int = 0


@dataclass(frozen=True)
class Level:
    """A horizontal reference, such as a metric's noise floor."""

    label: str
    y: float


def scatter_curve(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log_y: bool,
    levels: Sequence[Level] = (),
    seconds: bool = False,
) -> str:
    """Draw a figure of merit over NFE or time as an `<svg>`; x is logarithmic, and y where asked and positive."""
    figure, axes = _axes(x_label, y_label)
    axes.set_xscale("log")
    for line in lines:
        colour = COLOURS[line.run % len(COLOURS)]
        marker, style = MARKERS[line.variant % len(MARKERS)], "-" if line.variant == 0 else (0, (4, 2))
        axes.plot(
            line.x, line.y, linestyle=style, marker=marker, ms=4.5, lw=1.6, color=colour, label=plain_label(line.label)
        )
    for level in levels:
        axes.axhline(level.y, color=MUTED, lw=1, ls=":", label=plain_label(level.label))
    xs = sorted({x for line in lines for x in line.x})
    axes.xaxis.set_major_locator(FixedLocator(_spaced(xs)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_formatter(duration if seconds else "{:g}".format))
    axes.set_xlim(xs[0] / 1.25, xs[-1] * 1.25)
    if log_y and all(y > 0 for y in _heights(lines, levels)):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=_subdivisions(_heights(lines, levels))))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(_formatter("{:g}".format))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    return _svg(figure, axes, salt=f"{x_label}/{y_label}")


def history_curve(lines: Sequence[Line], *, y_label: str) -> str:
    """Draw a quantity over the training step as an `<svg>` element, y logarithmic when it spans more than a decade."""
    figure, axes = _axes("training step", y_label)
    for line in lines:
        axes.plot(line.x, line.y, lw=1.3, color=COLOURS[line.run % len(COLOURS)], label=plain_label(line.label))
    heights = _heights(lines, ())
    if min(heights) > 0 and max(heights) > 10 * min(heights):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=_subdivisions(heights)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(_formatter("{:g}".format))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(_formatter("{:,.0f}".format))
    return _svg(figure, axes, salt=f"step/{y_label}")


def duration(seconds: float) -> str:
    """Write a time with the unit that keeps it readable: `2.1 s`, `34 ms`, `250 µs`."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.{1 if seconds < 9.95 * scale else 0}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.7, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(plain_label(x_label), fontsize=9, color=MUTED)
    axes.set_ylabel(plain_label(y_label), fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8.5, color=RULE, labelcolor=INK, length=3)
    axes.grid(visible=True, color=RULE, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c3cad3")
    return figure, axes


def _spaced(values: Sequence[float]) -> list[float]:
    """Keep tick positions whose labels cannot touch on a logarithmic axis that spans the values."""
    gap = max(math.log(values[-1] / values[0]) / 9, math.log(1.2)) if values else 0.0
    kept: list[float] = []
    for value in values:
        if not kept or math.log(value / kept[-1]) >= gap:
            kept.append(value)
    return kept


def _subdivisions(heights: Sequence[float]) -> tuple[float, ...]:
    decades = math.log10(max(heights) / min(heights))
    return (
        (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    )


def _heights(lines: Sequence[Line], levels: Sequence[Level]) -> list[float]:
    return [y for line in lines for y in line.y if math.isfinite(y)] + [level.y for level in levels]


def _formatter(write: Callable[[float], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, _position: write(value))


def plain_label(text: str) -> str:
    """Keep matplotlib from reading formulas into dollar signs, or hiding what begins with an underscore."""
    return ("\N{ZERO WIDTH SPACE}" if text.startswith("_") else "") + text.replace("$", r"\$")


def _svg(figure: Figure, axes: Axes, salt: str) -> str:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return inline_svg(stream.getvalue())


def inline_svg(document: str) -> str:
    """Keep the `<svg>` element alone: a page implies its name spaces, and style rules and group names would leak."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", element, flags=re.DOTALL)
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', element, count=1)
