"""What is left of shapes in a mosaic: Chamfer distance, F-score and volume of decoded meshes, beside the floor of the metric.

Held-out built-in solids of the wide family, and the meshes of a folder (`rectiflow fetch shapes cgal` prints one).

A size is cubes x nodes a side, 256x7, or "checked": what the conversion's own check chose for each shape.

    python benchmarks/shapes_reconstruction.py [--folder FOLDER] [--count 40] [--sizes 256x7 checked]
        [--points 10000] [--resolution 96] [--json results.json]
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

from rectiflow.errors import DataError
from rectiflow_shapes.extraction import surface
from rectiflow_shapes.metrics import chamfer, f_score
from rectiflow_shapes.mosaic import SIZES, Mosaic, convert, convert_faithfully, decode
from rectiflow_shapes.preparing import load, prepare_folder, sample_surface
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import draw

Shape = tuple[str, trimesh.Trimesh, Tensor]
THRESHOLD = 0.02
CHECKED = "checked"


def solids(count: int) -> Iterator[Shape]:
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        solid = draw("wide", index, split="validation")
        yield solid.kind, solid.mesh, sample_surface(solid.mesh, 4096, generator)[0]


def of_folder(folder: Path, count: int) -> Iterator[Shape]:
    for path, file in list(prepare_folder(folder, points=2048).shapes.items())[:count]:
        prepared = load(Path(file))
        yield Path(path).stem, prepared.mesh, prepared.surface


def converted(mesh: trimesh.Trimesh, points: Tensor, size: str, resolution: int) -> Mosaic:
    def distance(queries: Tensor) -> Tensor:
        return signed_distance(mesh, queries)

    if size == CHECKED:
        return convert_faithfully(mesh, points, distance, SIZES[1:], resolution=resolution)
    cubes, nodes = map(int, size.split("x"))
    return convert(points, distance, cubes, nodes=nodes)


def judge(mesh: trimesh.Trimesh, points: Tensor, size: str, count: int, resolution: int) -> dict[str, float]:
    begun = time.process_time()
    mosaic = converted(mesh, points, size, resolution)
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
        "numbers": float(len(mosaic.positions) * (4 + mosaic.values[0].numel())),
    }


def table(rows: list[dict[str, float]], refused: int) -> dict[str, float]:
    figures = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for name in ("same_bodies", "valid"):
        figures[name] = statistics.mean(row[name] for row in rows)
    figures["volume_within_10_percent"] = statistics.mean(abs(row["volume_ratio"] - 1) <= 0.1 for row in rows)
    return {"shapes": len(rows), "refused": refused, **figures}


def measure(shapes: Iterator[Shape], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    rows: dict[str, list[dict[str, float]]] = {size: [] for size in options.sizes}
    refused = dict.fromkeys(options.sizes, 0)
    for kind, mesh, points in shapes:
        for size, found in rows.items():
            try:
                found.append(judge(mesh, points, size, options.points, options.resolution))
                print(kind, size, round(found[-1]["volume_ratio"], 3), file=sys.stderr)
            except DataError as error:
                refused[size] += 1
                print(kind, size, error, file=sys.stderr)
    return {size: table(found, refused[size]) for size, found in rows.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--sizes", nargs="+", default=["256x7", CHECKED])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sets = {"wide solids": solids(options.count)}
    if options.folder:
        sets[options.folder.name] = of_folder(options.folder, options.count)
    results = {name: measure(shapes, options) for name, shapes in sets.items()}
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
