"""How many shapes a second one core turns into Mosaic-SDF sets, from meshes and surface points at hand, and where the time goes.

    python benchmarks/shapes_conversion.py [--cubes 64] [--nodes 7] [--count 60] [--families demo wide] [--rounds 3]

Processor time, the best of some rounds over the same held-out solids.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import trimesh
from torch import Tensor

from rectiflow_shapes.mosaic import convert
from rectiflow_shapes.preparing import sample_surface
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import draw

POINTS = 2048


def prepared(family: str, count: int) -> list[tuple[trimesh.Trimesh, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    meshes = [draw(family, index, split="validation").mesh for index in range(count)]
    return [(mesh, sample_surface(mesh, POINTS, generator)[0].float()) for mesh in meshes]


def seconds(shapes: list[tuple[trimesh.Trimesh, Tensor]], cubes: int, nodes: int) -> tuple[float, float]:
    """Processor seconds of all conversions, and of the distances among them."""
    spent = [0.0]

    def distance(mesh: trimesh.Trimesh, queries: Tensor) -> Tensor:
        begun = time.process_time()
        values = signed_distance(mesh, queries)
        spent[0] += time.process_time() - begun
        return values

    begun = time.process_time()
    for mesh, points in shapes:
        convert(points, lambda queries, mesh=mesh: distance(mesh, queries), cubes, nodes=nodes)
    return time.process_time() - begun, spent[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubes", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=7)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--families", nargs="+", default=["demo", "wide"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for family in options.families:
        shapes = prepared(family, options.count)
        whole, distances = min(seconds(shapes, options.cubes, options.nodes) for _ in range(options.rounds))
        figures = {
            "shapes_a_second": len(shapes) / whole,
            "ms_a_shape": 1e3 * whole / len(shapes),
            "share_of_distances": distances / whole,
            "faces": sum(len(mesh.faces) for mesh, _ in shapes) / len(shapes),
        }
        print(family, json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
