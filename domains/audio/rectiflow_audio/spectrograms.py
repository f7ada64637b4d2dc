"""Spectrograms that grow with a signal of any length, and pictures of several on one scale."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rectiflow_audio.transforms import power_spectrogram

RANGE = 80.0
"""Decibels between the darkest and the brightest colour."""
COLUMNS = 1000
_SIZE, _HOP = 1024, 512
_FLOOR = 1e-12


class Spectrogram:
    """Mean power of a signal in at most 1000 columns of time, filled block by block.

    Args:
        total: samples of the signal.
        columns: at most so many.
    """

    def __init__(self, total: int, columns: int = COLUMNS) -> None:
        self.total = total
        self.columns = min(columns, 1 + total // _HOP)
        self._power = torch.zeros(_SIZE // 2 + 1, self.columns, dtype=torch.float64)
        self._frames = torch.zeros(self.columns, dtype=torch.float64)
        self._held = torch.zeros(_SIZE // 2)
        self._next = 0

    def add(self, block: Tensor) -> None:
        """The next samples (n,)."""
        self._held = torch.cat((self._held, block.float()))
        self._take()

    def decibels(self) -> Tensor:
        """Powers (513, columns) in dB, 0 for a full-scale sine, once all samples were added."""
        self._held = torch.nn.functional.pad(self._held, (0, _SIZE))
        self._take(min(1 + self.total // _HOP - self._next, 2))
        return 10 * (self._power / self._frames.clamp(min=1) + _FLOOR).log10().float()

    def _take(self, most: int | None = None) -> None:
        frames = max(0, (len(self._held) - _SIZE) // _HOP + 1)
        frames = frames if most is None else min(frames, most)
        if frames < 1:
            return
        used = self._held[: (frames - 1) * _HOP + _SIZE]
        # The first and last of the centred frames reach over the ends of what is held.
        power = power_spectrogram(used, _SIZE, _HOP)[:, 1 : frames + 1].double()
        places = torch.arange(self._next, self._next + frames) * _HOP * self.columns
        column = torch.div(places, max(self.total, 1), rounding_mode="floor").clamp(max=self.columns - 1)
        self._power.index_add_(1, column, power)
        self._frames.index_add_(0, column, torch.ones(frames, dtype=torch.float64))
        self._held, self._next = self._held[frames * _HOP :], self._next + frames


def spectrogram(wave: Tensor, columns: int = COLUMNS) -> Tensor:
    """Powers (513, at most `columns`) in dB of a signal (T,) in memory."""
    whole = Spectrogram(len(wave), columns)
    whole.add(wave)
    return whole.decibels()


def stacked(rows: Sequence[tuple[str, Tensor]], seconds: float, rate: int) -> Image.Image:
    """One picture of spectrograms (513, columns) in dB above each other, with titles, axes and one scale of 80 dB.

    The brightest colour is the loudest place of all of them.
    """
    height = 0.8 + 1.9 * len(rows)
    figure = Figure(figsize=(10, height), dpi=100)
    axes = np.atleast_1d(figure.subplots(len(rows), 1, sharex=True))
    figure.subplots_adjust(left=0.06, right=0.96, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.2)
    top = max(float(decibels.max()) for _, decibels in rows)
    for axis, (title, decibels) in zip(axes, rows, strict=True):
        shown = axis.imshow(
            decibels.numpy(),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top - RANGE,
            vmax=top,
            extent=(0, seconds, 0, rate / 2000),
            interpolation="nearest",
        )
        axis.set_title(title.replace("$", r"\$"), loc="left", fontsize=10)
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("s")
    figure.colorbar(shown, ax=list(axes), label="dB", fraction=0.05, aspect=12 * len(rows), pad=0.01)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")
