"""Spectrograms side by side, small, for progress and reports."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

RANGE = 70.0
"""dB from black to white."""
GAP = 4
HEIGHT = 128


def strip(magnitudes: Tensor) -> Image.Image:
    """A column a sample and a row a signal: magnitudes (B, R, F, N), low frequencies at the bottom.

    The brightest point of each column is white, and `RANGE` dB below it black.
    """
    level = 20 * torch.log10(magnitudes.clamp(min=1e-8))
    level = (level - level.amax(dim=(1, 2, 3), keepdim=True)) / RANGE + 1
    shown = level.clamp(0, 1).flip(2).numpy()
    columns, rows, _, frames = shown.shape
    wide = max(HEIGHT, min(frames, 4 * HEIGHT))
    canvas = np.full((rows * (HEIGHT + GAP) + GAP, columns * (wide + GAP) + GAP, 3), 255, dtype=np.uint8)
    colours = matplotlib.colormaps["magma"]
    for column in range(columns):
        for row in range(rows):
            picture = Image.fromarray((colours(shown[column, row])[..., :3] * 255).astype(np.uint8))
            top, left = GAP + row * (HEIGHT + GAP), GAP + column * (wide + GAP)
            canvas[top : top + HEIGHT, left : left + wide] = np.asarray(
                picture.resize((wide, HEIGHT), Image.Resampling.BOX)
            )
    return Image.fromarray(canvas)
