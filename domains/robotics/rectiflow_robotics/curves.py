"""Pictures of fine-tuning: what the policy can against steps and time, how its updates went, and its noisy denoisings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rectiflow.records import read_lines
from rectiflow_robotics.chain import Path as Chains

CURVES_FILE = "curves.png"
METRICS_FILE = "metrics.jsonl"
SIZE = (13.0, 8.5)


def draw_curves(run: Path, chains: Chains | None = None) -> Path:
    """Draw a run's `metrics.jsonl` into `curves.png`; `chains` are noisy denoisings to show beside.

    Raises:
        DataError: a line of the log that does not parse.
    """
    lines = read_lines(run / METRICS_FILE)
    figure = Figure(figsize=SIZE, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4).ravel()
    name, title = ("train_success", "success") if _succeeds(lines) else ("train_return", "return")
    for axis, key, label, scale in (
        (axes[0], "env_steps", "environment steps", 1.0),
        (axes[1], "seconds", "minutes", 60.0),
    ):
        _plot(axis, lines, name, "noisy policy", x=key, scale=scale)
        _plot(axis, lines, "held_out", "noise-free, held out", x=key, scale=scale, marker="o")
        axis.set(xlabel=label, ylabel=title)
        axis.legend(fontsize=8)
    sigmas = sorted({key for line in lines for key in line if key.startswith("sigma_")})
    for key in sigmas:
        _plot(axes[2], lines, key, f"step {key.removeprefix('sigma_')}")
    axes[2].set(title="noise of each denoising step", ylim=(0, None))
    _plot(axes[3], lines, "kl", "KL of an update, nats")
    _plot(axes[3], lines, "ratio_error", "|log ratio| an element before it")
    axes[3].set(title="trust region")
    _plot(axes[4], lines, "clip_fraction", "clipped")
    axes[4].set(title="share of ratios clipped", ylim=(0, 1))
    _plot(axes[5], lines, "explained_variance", "critic")
    axes[5].set(title="explained variance", ylim=(-0.2, 1.05))
    _plot(axes[6], lines, "learning_rate", "actor")
    axes[6].set(title="learning rate")
    for axis in axes[2:7]:
        axis.set_xlabel("environment steps")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    _chains(axes[7], chains)
    path = run / CURVES_FILE
    figure.savefig(path, dpi=80)
    return path


def draw_comparison(groups: Mapping[str, Sequence[Path]], path: Path, *, title: str = "") -> Path:
    """Held-out figures of several algorithms, name -> runs of different seeds, against steps and time.

    A line is the mean over seeds, its band the smallest to the largest of them.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for label, runs in groups.items():
        curves = [[line for line in read_lines(run / METRICS_FILE) if "held_out" in line] for run in runs]
        for axis, key, scale in ((axes[0], "env_steps", 1.0), (axes[1], "seconds", 60.0)):
            _band(axis, label, [[(line[key] / scale, line["held_out"]) for line in curve] for curve in curves])
    axes[0].set(xlabel="environment steps", ylabel="held-out, noise-free")
    axes[1].set(xlabel="minutes")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=90)
    return path


def _band(axis: Axes, label: str, curves: list[list[tuple[float, float]]]) -> None:
    usable = [curve for curve in curves if len(curve) > 1]
    if not usable:
        return
    grid = np.linspace(0, min(curve[-1][0] for curve in usable), 60)
    values = np.stack([np.interp(grid, *np.array(curve).T) for curve in usable])
    (line,) = axis.plot(grid, values.mean(0), label=f"{label} ({len(usable)})")
    axis.fill_between(grid, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, lw=0)


def _plot(
    axis: Axes,
    lines: list[dict[str, Any]],
    name: str,
    label: str,
    *,
    x: str = "env_steps",
    scale: float = 1.0,
    marker: str | None = None,
) -> None:
    points = [(line[x] / scale, line[name]) for line in lines if line.get(name) is not None and x in line]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, marker=marker, ms=3, lw=1.2)


def _succeeds(lines: list[dict[str, Any]]) -> bool:
    """Whether held-out figures are shares; returns of tasks without success are not."""
    return all(0 <= line["held_out"] <= 1 for line in lines if "held_out" in line)


def _chains(axis: Axes, chains: Chains | None) -> None:
    """x_0 to x_K of a few chunks, on the two directions in which their ends differ most."""
    axis.set(title="noisy denoisings", xticks=[], yticks=[])
    if chains is None or len(chains.states) < 3:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
        return
    states = chains.states.flatten(2).double().numpy()
    ends = states[:, -1] - states[:, -1].mean(0)
    directions = np.linalg.svd(ends, full_matrices=False)[2][:2]
    for chunk in states[:64] @ directions.T:
        axis.plot(*chunk.T, color="0.6", lw=0.6)
    flat = states[:64] @ directions.T
    axis.plot(*flat[:, 0].T, ".", ms=4, color="tab:blue", label="$x_0$", zorder=3)
    axis.plot(*flat[:, -1].T, ".", ms=4, color="tab:red", label="$x_K$", zorder=3)
    axis.legend(fontsize=8)
