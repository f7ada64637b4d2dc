"""Signed distances side by side: our engines, the winding mode of libigl, trimesh.proximity and pyvista where installed.

Every engine measures the same points to a torus of known distance, runs taking turns, and CPU seconds are counted, so that a busy
machine slows all of them alike.

    python benchmarks/shapes_distances.py [--points 100000] [--repeats 3] [--json results.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import igl
import numpy as np
import torch
import trimesh
from numpy.typing import NDArray

from rectiflow_shapes.signed_distance import ENGINES, signed_distance

Float = NDArray[np.float64]
MAJOR, MINOR = 0.6, 0.25
SLOW_SHARE = 50
"""trimesh.proximity measures one point of so many: it takes minutes for all."""


def engines(mesh: trimesh.Trimesh) -> dict[str, Callable[[Float], Float]]:
    """Name -> points to distances, negative inside, for what is installed."""
    vertices, faces = np.ascontiguousarray(mesh.vertices), np.ascontiguousarray(mesh.faces, dtype=np.int64)
    mode = igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    found: dict[str, Callable[[Float], Float]] = {
        f"rectiflow {name}": lambda points, name=name: signed_distance(mesh, torch.from_numpy(points), name).numpy()
        for name in ENGINES
    }
    found["libigl fast-winding mode"] = lambda points: igl.signed_distance(points, vertices, faces, sign_type=mode)[0]
    if importlib.util.find_spec("rtree"):
        found["trimesh.proximity"] = lambda points: -trimesh.proximity.signed_distance(mesh, points)
    if importlib.util.find_spec("pyvista"):
        import pyvista

        surface = pyvista.wrap(mesh)
        found["pyvista"] = lambda points: pyvista.PolyData(points).compute_implicit_distance(surface)[
            "implicit_distance"
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mesh = trimesh.creation.torus(MAJOR, MINOR, major_sections=100, minor_sections=50)
    points = np.random.default_rng(0).uniform(-1, 1, (arguments.points, 3))
    exact = np.hypot(np.linalg.norm(points[:, :2], axis=1) - MAJOR, points[:, 2]) - MINOR
    seconds: dict[str, list[float]] = {}
    errors: dict[str, tuple[float, int]] = {}
    for _ in range(arguments.repeats):
        for name, measure in engines(mesh).items():
            share = SLOW_SHARE if name == "trimesh.proximity" else 1
            started = time.process_time()
            found = measure(np.ascontiguousarray(points[::share]))
            spent = time.process_time() - started
            seconds.setdefault(name, []).append(spent * 1e5 * share / arguments.points)
            clear = np.abs(exact[::share]) > 3e-3
            wrong = int((np.sign(found) != np.sign(exact[::share]))[clear].sum())
            errors[name] = (float(np.abs(found - exact[::share]).max()), wrong)
    fastest = min(map(statistics.median, seconds.values()))
    print(f"torus of {len(mesh.faces)} faces, {arguments.points} points; CPU seconds for 100 000")
    rows = {}
    for name, times in seconds.items():
        middle, (error, wrong) = statistics.median(times), errors[name]
        rows[name] = {"cpu_seconds_100k": middle, "max_error": error, "wrong_signs": wrong}
        print(f"{name:28s} {middle:8.3f} s  {middle / fastest:6.1f} x   max error {error:.2e}   wrong signs {wrong}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
