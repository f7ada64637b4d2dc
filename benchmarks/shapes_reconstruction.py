"""What is left of shapes in a mosaic: Chamfer distance, F-score and volume of decoded meshes, beside the floor of the metric.

Held-out built-in solids of the wide family, and the meshes of a folder (`rectiflow fetch shapes cgal` prints one).

A size is cubes x nodes a side: 256x7 as converted, 256x7-fitted with its values fitted to distances, or "checked": what the
conversion's own check chose for each shape, of 256 cubes and more.

    python benchmarks/shapes_reconstruction.py [--folder FOLDER] [--count 50] [--sizes 256x7 256x7-fitted checked]
        [--points 10000] [--resolution 192] [--json results.json]
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
from rectiflow_shapes.mosaic import Mosaic, convert, decode
from rectiflow_shapes.mosaic_checking import FITTED, SIZES, bodies, convert_faithfully
from rectiflow_shapes.mosaic_values import around_surface, fit_values
from rectiflow_shapes.preparing import load, prepare_folder, sample_surface
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import draw

Shape = tuple[str, trimesh.Trimesh]
THRESHOLD = 0.02
CHECKED = "checked"
NEAR_FLOOR = 1.05


def solids(count: int) -> Iterator[Shape]:
    for index in range(count):
        solid = draw("wide", index, split="validation")
        yield solid.kind, solid.mesh


def of_folder(folder: Path, count: int) -> Iterator[Shape]:
    found = list(prepare_folder(folder, points=2048).shapes.items())
    for path, file in found[:: max(len(found) // count, 1)][:count]:
        yield Path(path).stem, load(Path(file)).mesh


def converted(mesh: trimesh.Trimesh, size: str, resolution: int) -> Mosaic:
    def distance(queries: Tensor) -> Tensor:
        return signed_distance(mesh, queries, "winding")

    generator = torch.Generator().manual_seed(0)
    if size == CHECKED:
        return convert_faithfully(mesh, generator, SIZES[1:], resolution=resolution)
    numbers, _, fitted = size.partition("-")
    cubes, nodes = map(int, numbers.split("x"))
    mosaic = convert(sample_surface(mesh, 16_384, generator)[0], distance, cubes, nodes=nodes)
    if not fitted:
        return mosaic
    told, _ = sample_surface(mesh, FITTED, generator)
    return fit_values(mosaic, *around_surface(told, mosaic, distance, generator))


def judge(mesh: trimesh.Trimesh, size: str, count: int, resolution: int) -> dict[str, float]:
    begun = time.process_time()
    mosaic = converted(mesh, size, resolution)
    seconds = time.process_time() - begun
    decoded = surface(decode(mosaic, resolution))
    generator = torch.Generator().manual_seed(1)
    one, other = (sample_surface(mesh, count, generator)[0] for _ in range(2))
    made = sample_surface(decoded, count, generator)[0]
    near, floor = chamfer(made, one).cd_l1_half, chamfer(other, one).cd_l1_half
    return {
        "cd_l1_half": near,
        "cd_l1_half_floor": floor,
        "cd_over_floor": near / floor,
        f"f_score_{THRESHOLD}": f_score(made, one, THRESHOLD),
        f"f_score_{THRESHOLD}_floor": f_score(other, one, THRESHOLD),
        "volume_ratio": float(decoded.volume / mesh.volume),
        "same_bodies": float(bodies(decoded) == bodies(mesh)),
        "valid": float(decoded.is_volume),
        "conversion_s": seconds,
        "cubes": float(len(mosaic.positions)),
        "nodes": float(mosaic.values.shape[1]),
    }


def table(rows: list[dict[str, float]], refused: int) -> dict[str, float]:
    figures = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for name in ("same_bodies", "valid"):
        figures[name] = statistics.mean(row[name] for row in rows)
    off = [abs(row["volume_ratio"] - 1) for row in rows]
    for percent in (2, 5, 10):
        figures[f"volume_within_{percent}_percent"] = statistics.mean(each <= percent / 100 for each in off)
    figures["volume_error_worst"] = max(off)
    figures["cd_within_5_percent_of_floor"] = statistics.mean(row["cd_over_floor"] <= NEAR_FLOOR for row in rows)
    figures["cd_over_floor_worst"] = max(row["cd_over_floor"] for row in rows)
    figures["of_256_cubes"] = statistics.mean(row["cubes"] == 256 for row in rows)
    return {"shapes": len(rows), "refused": refused, **figures}


def measure(shapes: Iterator[Shape], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    rows: dict[str, list[dict[str, float]]] = {size: [] for size in options.sizes}
    refused = dict.fromkeys(options.sizes, 0)
    for name, mesh in shapes:
        for size, found in rows.items():
            try:
                found.append(judge(mesh, size, options.points, options.resolution))
                told = ("volume_ratio", "cd_over_floor", "same_bodies", "cubes", "nodes", "conversion_s")
                print(name, size, *(round(found[-1][each], 3) for each in told), file=sys.stderr, flush=True)
            except DataError as error:
                refused[size] += 1
                print(name, size, error, file=sys.stderr, flush=True)
    return {size: table(found, refused[size]) for size, found in rows.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--sizes", nargs="+", default=["256x7", "256x7-fitted", CHECKED])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--resolution", type=int, default=192)
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
