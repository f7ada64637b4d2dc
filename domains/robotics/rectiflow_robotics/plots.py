"""Pictures of action chunks."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

COLOURS = ("#0b6e99", "#c8553d", "#588157", "#8e6c8a", "#b8860b", "#444444")
COLUMNS = 8
TILE = 120
GAP = 6
SHARPNESS = 3  # drawn larger and scaled down, for smooth lines
REACH = 1.5  # half the height of a tile, in units of actions


def chunk_plots(chunks: Tensor) -> Image.Image:
    """Actions of each chunk (n, Ta, Da) as curves over its steps, one colour an entry; the grey band is [-1, 1]."""
    count = len(chunks)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    canvas = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP), "white")
    for number, chunk in enumerate(chunks.numpy()):
        place = (GAP + number % columns * (TILE + GAP), GAP + number // columns * (TILE + GAP))
        canvas.paste(_curves(chunk), place)
    return canvas


def _curves(chunk: np.ndarray) -> Image.Image:
    size = TILE * SHARPNESS
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)

    def height(value: float) -> float:
        return size / 2 * (1 - value / REACH)

    pen.rectangle((0, height(1), size, height(-1)), fill="#f0f0f0")
    pen.line((0, height(0), size, height(0)), fill="#c8c8c8", width=SHARPNESS)
    across = (np.arange(len(chunk)) + 0.5) / len(chunk) * size
    dot = 2.5 * SHARPNESS
    for entry, curve in enumerate(chunk.T):
        colour = COLOURS[entry % len(COLOURS)]
        points = [(float(x), height(float(y))) for x, y in zip(across, curve, strict=True)]
        pen.line(points, fill=colour, width=2 * SHARPNESS)
        for x, y in points:
            pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=colour)
    pen.rectangle((0, 0, size - 1, size - 1), outline="#909090", width=SHARPNESS)
    return picture.resize((TILE, TILE), Image.Resampling.LANCZOS)
