"""Pictures of action chunks."""

from __future__ import annotations

import io
import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

COLOURS = ("#0b6e99", "#c8553d", "#588157", "#8e6c8a", "#b8860b", "#444444")


def rendered(figure: Figure) -> Image.Image:
    """A figure as a picture."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def chunk_plots(chunks: Tensor) -> Image.Image:
    """Actions of each chunk (n, Ta, Da) as curves over its steps, one curve an entry; [-1, 1] is grey."""
    count = len(chunks)
    columns = min(count, 8)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.5 * columns, 1.6 * rows), dpi=90, layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(rows, columns, sharex=True, sharey=True), dtype=object)).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis, chunk in zip(axes, chunks.numpy(), strict=False):
        steps = np.arange(1, len(chunk) + 1)
        for number, curve in enumerate(chunk.T):
            axis.plot(steps, curve, color=COLOURS[number % len(COLOURS)], lw=1.4, marker="o", ms=2.5)
        axis.axhspan(-1, 1, color="0.95", zorder=0)
        axis.set_ylim(-1.6, 1.6)
        axis.set_xticks([steps[0], steps[-1]])
        axis.set_yticks([-1, 0, 1])
        axis.tick_params(labelsize=7, length=2)
    return rendered(figure)
