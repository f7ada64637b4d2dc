"""Draws docs/sounds.png: the spectrogram of one built-in sound of each kind."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt

from rectiflow_audio.generator import KINDS, synthesise
from rectiflow_audio.transforms import power_spectrogram

SECONDS, RATE = 3, 16_000


def main() -> None:
    """Draw and save it."""
    figure, axes = plt.subplots(2, 5, figsize=(10, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, kind in zip(axes.flat, KINDS, strict=True):
        wave = synthesise(kind, SECONDS * RATE, torch.Generator().manual_seed(1))
        level = 10 * power_spectrogram(wave, 512, 128).clamp_min(1e-12).log10()
        top = float(level.max())
        axis.imshow(level, origin="lower", aspect="auto", extent=(0, SECONDS, 0, RATE / 2000), vmin=top - 70, vmax=top)
        axis.set_title(kind, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.supxlabel("seconds", fontsize=8)
    figure.supylabel("kHz", fontsize=8)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=75, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
