"""Figures of generated shapes: whether they are solids, and how their set compares with held-out shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import trimesh
from torch import Tensor

from rectiflow.metrics import frechet_distance
from rectiflow.records import Metric
from rectiflow_shapes.descriptors import power_spectrum
from rectiflow_shapes.meshes import inspect
from rectiflow_shapes.metrics import chamfer_matrix, coverage, mmd, nearest_neighbour_accuracy

CLOUD = 512
"""Points a cloud that sets of shapes are compared by."""

METRICS = (
    Metric("valid", "valid", "higher", primary=True),
    Metric("nna_cd", "1-NNA (CD)", "lower", primary=True),
    Metric("accuracy_points", "accuracy (point net)", "higher"),
    Metric("cov_cd", "COV (CD)", "higher"),
    Metric("mmd_cd", "MMD (CD)", "lower"),
    Metric("fd_e3", "FD (e3 spectrum)", "lower"),
)


@dataclass(frozen=True)
class Held:
    """Held-out shapes to compare with: clouds (R, 512, 3), their Chamfer distances (R, R) and descriptors (R, 40)."""

    clouds: Tensor
    within: Tensor
    descriptors: Tensor


def held_out(clouds: Tensor) -> Held:
    """Held-out shapes by their clouds (R, 512, 3)."""
    return Held(clouds, chamfer_matrix(clouds, clouds), power_spectrum(clouds.double()))


def surface_points(meshes: Sequence[trimesh.Trimesh], count: int = CLOUD) -> Tensor:
    """Clouds (B, count, 3) spread evenly by area; a mesh without faces gives points at the origin."""
    clouds = torch.zeros(len(meshes), count, 3)
    for number, mesh in enumerate(meshes):
        if len(mesh.faces) and mesh.area > 0:
            points = trimesh.sample.sample_surface(mesh, count, seed=number)[0]
            clouds[number] = torch.from_numpy(points).float()
    return clouds


def valid_share(meshes: Sequence[trimesh.Trimesh]) -> float:
    """Share of meshes that are one closed solid of sensible volume."""
    return sum(inspect(mesh).valid for mesh in meshes) / len(meshes)


def set_figures(clouds: Tensor, reference: Held) -> dict[str, float]:
    """1-NNA, coverage and MMD by Chamfer distance against as many held-out shapes, and the Frechet distance of descriptors.

    1-NNA needs sets of one size: of the larger set the first shapes count.
    """
    size = min(len(clouds), len(reference.clouds))
    ours, between = clouds[:size], chamfer_matrix(clouds[:size], reference.clouds[:size])
    return {
        "nna_cd": nearest_neighbour_accuracy(chamfer_matrix(ours, ours), between, reference.within[:size, :size]),
        "cov_cd": coverage(between),
        "mmd_cd": mmd(between),
        "fd_e3": float(frechet_distance(power_spectrum(clouds.double()), reference.descriptors)),
    }
