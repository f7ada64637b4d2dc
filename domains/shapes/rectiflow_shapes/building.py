"""Parts of solids, made with manifold3d: boxes, rods, turned profiles, flat outlines and hulls. Up is z while building."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from manifold3d import CrossSection, Manifold, OpType
from numpy.typing import NDArray

SEGMENTS = 32
"""Straight pieces of a full turn."""

Point = tuple[float, float, float]


def union(parts: Sequence[Manifold]) -> Manifold:
    """All parts as one solid."""
    return Manifold.batch_boolean(list(parts), OpType.Add)


def box(size: Point, centre: Point) -> Manifold:
    """A box with sides `size` along x, y and z."""
    return Manifold.cube(size, True).translate(centre)


def rod(start: Point, end: Point, radius: float, end_radius: float | None = None, segments: int = 16) -> Manifold:
    """A round bar from `start` to `end`, tapered to `end_radius` when given."""
    along = np.subtract(end, start)
    length = float(np.linalg.norm(along))
    tilt = math.degrees(math.acos(max(-1.0, min(1.0, along[2] / length))))
    turn = math.degrees(math.atan2(along[1], along[0]))
    bar = Manifold.cylinder(length, radius, radius if end_radius is None else end_radius, segments)
    return bar.rotate((0.0, tilt, turn)).translate(start)


def lathe(profile: Sequence[tuple[float, float]], segments: int = SEGMENTS) -> Manifold:
    """The outline of (radius, height) points, closed along the axis and turned about z."""
    return CrossSection([_counterclockwise(np.array(profile))]).revolve(segments)


def prism(outline: Sequence[tuple[float, float]] | NDArray[np.float64], height: float) -> Manifold:
    """The outline in the xy plane, raised from z = 0 to `height`."""
    return CrossSection([_counterclockwise(np.array(outline, dtype=np.float64))]).extrude(height)


def polygon(corners: int, radius: float, phase: float = 0.0) -> NDArray[np.float64]:
    """The corners (corners, 2) of a regular polygon; `phase` in turns."""
    angles = 2 * math.pi * (np.arange(corners) / corners + phase)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def half_ring(reach: float, half_height: float, radius: float) -> Manifold:
    """A handle: a bar bent into half an ellipse in the xz plane, out to x = reach, between z = -half_height and half_height.

    The bar has `radius` everywhere and ends at x = 0.
    """

    def bend(points: NDArray[np.float64]) -> NDArray[np.float64]:
        across, y, along = points.T
        angle = math.pi * (along - 0.5)
        outward = np.stack([half_height * np.cos(angle), reach * np.sin(angle)])
        outward = outward / np.linalg.norm(outward, axis=0)
        return np.stack(
            [reach * np.cos(angle) + across * outward[0], y, half_height * np.sin(angle) + across * outward[1]], axis=1
        )

    bar: Manifold = CrossSection.circle(radius, 12).extrude(1.0, n_divisions=15).warp_batch(bend)
    return bar


def blade(root: Sequence[Point], tip: Sequence[Point]) -> Manifold:
    """The convex hull of a root and a tip outline: a wing or a fin."""
    return Manifold.hull_points(np.array([*root, *tip], dtype=np.float64))


def thread(radius: float, depth: float, length: float, turns: float) -> Manifold:
    """A screw thread along z from 0 to `length`: a circle off its axis by `depth`, twisted `turns` times."""
    off_axis = CrossSection.circle(radius - depth, 20).translate((depth, 0.0))
    return off_axis.extrude(length, n_divisions=int(turns * 14), twist_degrees=360.0 * turns)


def _counterclockwise(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = outline.T
    return outline if np.dot(x, np.roll(y, -1)) >= np.dot(y, np.roll(x, -1)) else outline[::-1]
