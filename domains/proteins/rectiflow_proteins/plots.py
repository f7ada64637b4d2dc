"""Figures of backbones as pictures: Ramachandran plot and contact maps."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_proteins.torsions import torsions_of

_CONTACT = 8.0
_BINS = 72
_INK, _SAMPLES = "#1f2933", "#c4512d"


def ramachandran_plot(chains: Sequence[Tensor], data: Sequence[Tensor] = ()) -> Image.Image:
    """Phi against psi of every residue of the chains (N, 3 or 4, 3), on the density of the data's."""
    figure = Figure(figsize=(4.6, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if data:
        phi, psi = _angles(data)
        edges = np.linspace(-180, 180, _BINS + 1)
        counts, _, _ = np.histogram2d(phi, psi, (edges, edges))
        axes.pcolormesh(edges, edges, np.log1p(counts.T), cmap="Greys", vmax=1.5 * np.log1p(counts).max())
    phi, psi = _angles(chains)
    axes.scatter(phi, psi, s=3, color=_SAMPLES, alpha=0.5, linewidths=0)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="phi (degrees)", ylabel="psi (degrees)", aspect="equal")
    _ticks(axes, range(-180, 181, 60))
    axes.set_title("samples" + (" on the density of the data" if data else ""), fontsize=10, color=_INK)
    return _picture(figure)


def contact_maps(chains: Sequence[Tensor], columns: int = 8) -> Image.Image:
    """Distances of CA of each chain (N, 3 or 4, 3): black within 8 A, fading to white at 20 A.

    Raises:
        ConfigError: no chain, or no column.
    """
    if not chains or columns < 1:
        raise ConfigError(f"{len(chains)} chains in {columns} columns were to be drawn; both must be at least 1")
    columns = min(columns, len(chains))
    rows = math.ceil(len(chains) / columns)
    figure = Figure(figsize=(1.5 * columns, 1.6 * rows), dpi=120, layout="constrained")
    for number, chain in enumerate(chains, start=1):
        axes = figure.add_subplot(rows, columns, number)
        distance = torch.cdist(chain[:, 1].double(), chain[:, 1].double())
        shade = ((distance - _CONTACT) / (20 - _CONTACT)).clamp(0, 1)
        axes.imshow(shade.numpy(), cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest")
        _ticks(axes, (0, len(chain) - 1))
        axes.tick_params(labelsize=6)
    return _picture(figure)


def _angles(chains: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    torsions = torch.rad2deg(torch.cat([torsions_of(chain)[1:-1, :2] for chain in chains])).double()
    return torsions[:, 0].numpy(), torsions[:, 1].numpy()


def _ticks(axes: Axes, places: Sequence[int]) -> None:
    axes.set_xticks(places)
    axes.set_yticks(places)


def _picture(figure: Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    stream.seek(0)
    return Image.open(stream).convert("RGB")
