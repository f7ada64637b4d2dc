"""Figures of benchmark pages: panels side by side with one legend, as inline SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from rectiflow.report_figures import INK, MUTED, RULE, inline_svg, plain_label

PALETTE = ("#1f4e79", "#c4512d", "#4d8b57", "#8f6bb3", "#b08a2e", "#3c9aa8", "#8a4a63", "#6b7785")
LEGEND_WIDTH, MARK_WIDTH = 120, 7
"""Of the legend and of the mark before a label, in characters."""
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


@dataclass(frozen=True)
class Series:
    """A curve: its points and, where they have them, intervals; `number` gives colour and mark, a dashed one is hollow."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0
    dashed: bool = False
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """Axes with their curves; levels are dotted lines across, (label, height)."""

    title: str
    x_label: str
    series: Sequence[Series]
    levels: Sequence[tuple[str, float]] = ()


def draw_panels(
    panels: Sequence[Panel],
    *,
    y_label: str,
    log_y: bool = False,
    y_range: tuple[float, float] | None = None,
    ticks: Sequence[Sequence[float]] = (),
) -> str:
    """An `<svg>` of panels that share their heights.

    x is logarithmic, with a panel's `ticks` or powers of ten; y with `log_y`, where heights are positive and far apart. Curves
    run out of a `y_range`.
    """
    figure = Figure(figsize=(9.4, 3.7), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, ax, places in zip(panels, axes, ticks or [()] * len(panels), strict=True):
        _draw(ax, panel, places)
    heights = [y for panel in panels for series in panel.series for y in series.y if math.isfinite(y)]
    heights += [height for panel in panels for _, height in panel.levels if math.isfinite(height)]
    axes[0].set_ylabel(plain_label(y_label), fontsize=10.5, color=INK)
    if log_y and heights and min(heights) > 0 and max(heights) > 4 * min(heights):
        axes[0].set_yscale("log")
        wide = max(heights) > 30 * min(heights)
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes[0].yaxis.set_minor_locator(NullLocator())
        axes[0].yaxis.set_major_formatter(_formatter())
    else:
        axes[0].yaxis.set_major_locator(MaxNLocator(6))
    if y_range is not None:
        axes[0].set_ylim(*y_range)
    known: dict[str, Artist] = {}
    for ax in axes:
        known.update({label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)})
    if known:
        figure.legend(
            list(known.values()),
            list(known),
            loc="outside lower center",
            ncols=min(len(known), 5, max(1, LEGEND_WIDTH // (max(map(len, known)) + MARK_WIDTH))),
            frameon=False,
            fontsize=9.5,
            labelcolor=INK,
        )
    stream = io.StringIO()
    salt = "/".join([y_label, *(panel.title + panel.x_label for panel in panels)])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return inline_svg(stream.getvalue())


def _draw(ax: Axes, panel: Panel, ticks: Sequence[float]) -> None:
    for label, height in panel.levels:
        ax.axhline(
            height, color=MUTED, lw=1, ls=":" if label.startswith("floor") else (0, (1, 3)), label=plain_label(label)
        )
    for series in panel.series:
        colour = PALETTE[series.number % len(PALETTE)]
        ax.plot(
            series.x,
            series.y,
            color=colour,
            marker=MARKS[series.number % len(MARKS)],
            markerfacecolor="white" if series.dashed else colour,
            linestyle=(0, (4, 2)) if series.dashed else "-",
            lw=1.5,
            ms=5,
            label=plain_label(series.label),
        )
        if series.low:
            ax.fill_between(series.x, series.low, series.high, color=colour, alpha=0.12, lw=0)
    ax.set_xscale("log")
    if ticks:
        ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
        ax.set_xlim(min(ticks) / 1.25, max(*ticks, *(x for series in panel.series for x in series.x)) * 1.25)
    else:
        ax.xaxis.set_major_locator(LogLocator(numticks=8))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(_formatter())
    ax.set_xlabel(plain_label(panel.x_label), fontsize=10.5, color=INK)
    ax.set_title(plain_label(panel.title), fontsize=10.5, color=INK, loc="left")
    ax.tick_params(labelsize=9.5, color=RULE, labelcolor=INK, length=3)
    ax.grid(visible=True, color=RULE, lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c3cad3")


def _formatter() -> FuncFormatter:
    return FuncFormatter(lambda value, _position: f"{value:g}")
