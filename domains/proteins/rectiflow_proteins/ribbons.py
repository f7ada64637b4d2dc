"""Backbones as ribbons: helices and strands are flat, strands end in arrows, the rest is a thin tube; painted back to front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from rectiflow_proteins.frames import unit
from rectiflow_proteins.secondary import secondary_structure

COLOURS = ((0x9A, 0xA5, 0xB1), (0xC4, 0x51, 0x2D), (0x2F, 0x6F, 0x8F))  # coil, helix, strand, as in the report
STEPS = 6  # cross-sections a residue
_WIDTHS = (0.35, 1.35, 1.15)  # Angstrom, half of the width of coil, helix, strand
_THICKNESS = (0.35, 0.28, 0.28)
_ARROW = 1.9
_SIDES = 8
_SMOOTHING = 3  # pictures are painted so many times larger, then shrunk
_LIGHT = unit(torch.tensor([-0.4, 0.5, 0.8])).tolist()


@dataclass(frozen=True)
class Ribbon:
    """A swept backbone: cross-section corners (S, K, 3) in Angstrom and the state of each section (S,)."""

    corners: NDArray[np.float64]
    states: NDArray[np.int64]


def ribbon(atoms: Tensor, sides: int = _SIDES, steps: int = STEPS) -> Ribbon:
    """The ribbon of a backbone N, CA, C, O, (N, 4, 3), N at least 5, turned so that its longest axis is upright."""
    atoms = upright(atoms.detach().cpu().double())
    states = secondary_structure([atoms[:, 1]])[0]
    centre, across = _guides(atoms, states)
    width = torch.tensor(_WIDTHS, dtype=torch.float64)[states]
    thickness = torch.tensor(_THICKNESS, dtype=torch.float64)[states]
    matrix = _b_spline(len(atoms), steps)
    path, sideways = matrix @ centre, matrix @ across
    tangent = unit(torch.gradient(path, dim=0)[0])
    sideways = unit(sideways - (sideways * tangent).sum(1, keepdim=True) * tangent)
    upwards = torch.linalg.cross(tangent, sideways)
    nearest = (torch.linspace(0, len(atoms) - 1, len(path)).round()).long()
    half_width = _arrows(states, steps, matrix @ width)
    angles = torch.arange(sides) * 2 * math.pi / sides
    ring = torch.cos(angles)[None, :, None] * (half_width[:, None, None] * sideways[:, None]) + torch.sin(angles)[
        None, :, None
    ] * ((matrix @ thickness)[:, None, None] * upwards[:, None])
    return Ribbon((path[:, None] + ring).numpy(), states[nearest].numpy())


def paint(ribbons: Sequence[Ribbon], columns: int, tile: int) -> Image.Image:
    """Ribbons side by side, `columns` in a row, each in a square of `tile` pixels, all to one scale."""
    rows = math.ceil(len(ribbons) / columns)
    extent = max(float(np.abs(one.corners[..., :2]).max()) for one in ribbons)
    size = tile * _SMOOTHING
    scale = 0.47 * size / max(extent, 1e-9)
    canvas = Image.new("RGB", (columns * size, rows * size), "white")
    brush = ImageDraw.Draw(canvas)
    for number, one in enumerate(ribbons):
        centre = np.array([(number % columns + 0.5) * size, (number // columns + 0.5) * size])
        for corners, colour in _faces(one):
            flat = corners[:, :2] * (scale, -scale) + centre
            brush.polygon([(float(x), float(y)) for x, y in flat], fill=colour)
    return canvas.resize((columns * tile, rows * tile), Image.Resampling.LANCZOS)


def upright(atoms: Tensor) -> Tensor:
    """Atoms (N, 4, 3) centred and turned, never mirrored, so that the longest axis is y and the shortest points at the viewer."""
    centred = atoms - atoms[:, 1].mean(0)
    axes = torch.linalg.svd(centred[:, 1], full_matrices=False)[2]
    turn = torch.stack((axes[1], axes[0], axes[2]))
    turn[2] = turn[2] * torch.linalg.det(turn).sign()
    return centred @ turn.mT


def _guides(atoms: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Control points (N, 3) of the middle line, and unit vectors (N, 3) across the ribbon, which follow the carbonyls."""
    alphas = atoms[:, 1]
    smoothed = alphas.clone()
    smoothed[1:-1] = (alphas[:-2] + 2 * alphas[1:-1] + alphas[2:]) / 4
    # Strands are pleated; the ribbon runs through the middle of the pleats.
    centre = torch.where((states == 2)[:, None], smoothed, alphas)
    across = unit(atoms[:, 3] - atoms[:, 2])
    for i in range(1, len(across)):
        if float((across[i] * across[i - 1]).sum()) < 0:
            across[i] = -across[i]
    return centre, across


def _b_spline(count: int, steps: int) -> Tensor:
    """((count - 1) steps + 1, count) weights of a uniform cubic B-spline that starts and ends at its end points."""
    places = torch.arange((count - 1) * steps + 1, dtype=torch.float64) / steps
    # Two more control points at each end, mirrored, so that the curve reaches the ends.
    weights = torch.zeros(len(places), count + 2, dtype=torch.float64)
    cell = places.long().clamp(max=count - 2)
    u = places - cell
    rows = torch.arange(len(places))
    basis = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    for offset, values in enumerate(basis):
        weights[rows, cell + offset] += values / 6
    weights[:, 1] += 2 * weights[:, 0]
    weights[:, 2] -= weights[:, 0]
    weights[:, count] += 2 * weights[:, count + 1]
    weights[:, count - 1] -= weights[:, count + 1]
    return weights[:, 1 : count + 1]


def _arrows(states: Tensor, steps: int, width: Tensor) -> Tensor:
    """The half widths (S,) with the last residue of each strand drawn out into an arrow head."""
    width = width.clone()
    for i in range(1, len(states)):
        if states[i] == 2 and (i + 1 == len(states) or states[i + 1] != 2):
            start = (i - 1) * steps
            width[start : start + steps + 1] = torch.linspace(_ARROW, 0.2, steps + 1, dtype=width.dtype)
    return width


def _faces(one: Ribbon) -> list[tuple[NDArray[np.float64], tuple[int, int, int]]]:
    """Quadrilaterals (4, 3) with their shaded colours, the farthest first."""
    corners = one.corners
    following = np.roll(corners, -1, axis=1)
    quads = np.stack((corners[:-1], corners[1:], following[1:], following[:-1]), 2).reshape(-1, 4, 3)
    normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    depth = quads[:, :, 2].mean(1)
    near = (depth - depth.min()) / (np.ptp(depth) + 1e-9)
    bright = (0.45 + 0.55 * np.abs(normals @ np.array(_LIGHT))) * (0.7 + 0.3 * near)
    base = np.repeat(np.array(COLOURS)[one.states[:-1]], corners.shape[1], axis=0)
    haze = (0.25 * (1 - near))[:, None]
    shades = ((1 - haze) * base * bright[:, None] + haze * 255).clip(0, 255).astype(int)
    return [(quads[i], tuple(shades[i].tolist())) for i in np.argsort(depth)]
