"""What is left of shapes in a mosaic: Chamfer distance, F-score and volume of decoded meshes, beside the floor of the metric.

Held-out built-in solids of the wide family, and the meshes of a folder (`rectiflow fetch shapes cgal` prints one).

    python benchmarks/shapes_reconstruction.py [--folder FOLDER] [--count 40] [--cubes 64 256] [--nodes 7]
        [--points 10000] [--resolution 64] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import trimesh
from torch import Tensor

from rectiflow_shapes.extraction import surface
from rectiflow_shapes.metrics import chamfer, f_score
from rectiflow_shapes.mosaic import convert, decode
from rectiflow_shapes.preparing import load, prepare_folder, sample_surface
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import draw

Shape = tuple[str, trimesh.Trimesh, Tensor]
THRESHOLD = 0.02


def solids(count: int) -> Iterator[Shape]:
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        solid = draw("wide", index, split="validation")
        yield solid.kind, solid.mesh, sample_surface(solid.mesh, 4096, generator)[0]


def of_folder(folder: Path, count: int) -> Iterator[Shape]:
    for path, file in list(prepare_folder(folder, points=2048).shapes.items())[:count]:
        prepared = load(Path(file))
        yield Path(path).stem, prepared.mesh, prepared.surface


def judge(
    mesh: trimesh.Trimesh, points: Tensor, cubes: int, nodes: int, count: int, resolution: int
) -> dict[str, float]:
    begun = time.process_time()
    mosaic = convert(points, lambda queries: signed_distance(mesh, queries), cubes, nodes=nodes)
    seconds = time.process_time() - begun
    decoded = surface(decode(mosaic, resolution))
    generator = torch.Generator().manual_seed(1)
    one, other = (sample_surface(mesh, count, generator)[0] for _ in range(2))
    made = sample_surface(decoded, count, generator)[0]
    return {
        "cd_l1_half": chamfer(made, one).cd_l1_half,
        "cd_l1_half_floor": chamfer(other, one).cd_l1_half,
        f"f_score_{THRESHOLD}": f_score(made, one, THRESHOLD),
        f"f_score_{THRESHOLD}_floor": f_score(other, one, THRESHOLD),
        "volume_ratio": float(decoded.volume / mesh.volume),
        "same_bodies": float(decoded.body_count == mesh.body_count),
        "valid": float(decoded.is_volume),
        "conversion_s": seconds,
    }


def table(rows: list[dict[str, float]]) -> dict[str, float]:
    figures = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for name in ("same_bodies", "valid"):
        figures[name] = statistics.mean(row[name] for row in rows)
    figures["volume_within_10_percent"] = statistics.mean(abs(row["volume_ratio"] - 1) <= 0.1 for row in rows)
    return {"shapes": len(rows), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--cubes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--nodes", type=int, default=7)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sets = {"wide solids": solids(options.count)}
    if options.folder:
        sets[options.folder.name] = of_folder(options.folder, options.count)
    results = {}
    for name, shapes in sets.items():
        rows: dict[int, list[dict[str, float]]] = {cubes: [] for cubes in options.cubes}
        for kind, mesh, points in shapes:
            for cubes in options.cubes:
                rows[cubes].append(judge(mesh, points, cubes, options.nodes, options.points, options.resolution))
            print(kind, {cubes: round(found[-1]["volume_ratio"], 3) for cubes, found in rows.items()}, file=sys.stderr)
        for cubes, found in rows.items():
            results[f"{name}, n={cubes}"] = table(found)
            print(f"{name}, n={cubes}", json.dumps(results[f"{name}, n={cubes}"], indent=1))
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
