"""Fitting a mosaic to distances and their gradients, after it was converted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_shapes.mosaic import Mosaic, evaluate


class Targets(NamedTuple):
    """What a mosaic should say at points (N, 3): distances (N,), and their gradients (N, 3)."""

    points: Tensor
    distances: Tensor
    gradients: Tensor


def targets(
    surface: Tensor, distance: Callable[[Tensor], Tensor], generator: torch.Generator, *, spread: float = 0.01
) -> Targets:
    """Distances and gradients at points of a surface (N, 3), of which every second one is moved by N(0, spread^2).

    Gradients are central differences over 2e-3. At the surface itself they are its normals.
    """
    points = surface.float().clone()
    moved = points[::2]
    points[::2] = moved + spread * torch.randn(moved.shape, generator=generator).to(points)
    step = 1e-3
    shifts = step * torch.eye(3, device=points.device)
    around = torch.cat([points[:, None] + shifts, points[:, None] - shifts], dim=1)
    values = distance(torch.cat([points[:, None], around], dim=1).reshape(-1, 3)).to(points).reshape(-1, 7)
    return Targets(points, values[:, 0], (values[:, 1:4] - values[:, 4:]) / (2 * step))


def fit(
    mosaic: Mosaic,
    wanted: Targets,
    generator: torch.Generator,
    *,
    steps: int = 200,
    batch: int = 1024,
    learning_rate: float = 1e-3,
    gradient_weight: float = 0.1,
) -> Mosaic:
    """A mosaic whose field is nearer to the targets: Adam on positions, scales and values (arXiv 2312.09222, algorithm 1).

    The loss is mean |F - d| + gradient_weight mean |grad F - grad d|_2 over points that a cube holds; the rate falls to zero
    along a cosine. A conversion of many cubes gains little; one of 64 gains several times, at about 20 ms a step.

    Raises:
        ConfigError: fewer than one step or point.
    """
    if steps < 1 or batch < 1:
        raise ConfigError(f"a fit got steps={steps} and batch={batch}; allowed: at least 1 of each")
    positions, values = (part.detach().clone().requires_grad_() for part in (mosaic.positions, mosaic.values))
    log_scales = mosaic.scales.detach().log().requires_grad_()
    optimiser = torch.optim.Adam([positions, log_scales, values], lr=learning_rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randint(len(wanted.points), (batch,), generator=generator).to(wanted.points.device)
        loss = _loss(Mosaic(positions, log_scales.exp(), values), Targets(*(x[rows] for x in wanted)), gradient_weight)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return Mosaic(positions.detach(), log_scales.detach().exp(), values.detach())


def _loss(mosaic: Mosaic, wanted: Targets, gradient_weight: float) -> Tensor:
    points = wanted.points.clone().requires_grad_()
    values, covered = evaluate(mosaic, points)
    gradients = torch.autograd.grad(values.sum(), points, create_graph=True)[0]
    # At a node the gradient of a field can vanish, where that of a norm does not exist.
    slopes = (gradients - wanted.gradients).square().sum(-1).clamp(min=1e-12).sqrt()
    per_point = (values - wanted.distances).abs() + gradient_weight * slopes
    return per_point[covered].mean()
