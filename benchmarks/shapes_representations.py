"""The four representations at one budget of numbers, on the same held-out solids: volume IoU, Chamfer distance, valid share.

    python benchmarks/shapes_representations.py [--count 120] [--trained 1600] [--latent-set RUN] [--latent-grid RUN]
        [--turning RUN] [--learned-only] [--turned] [--family demo] [--json results.json]

Every shape is 1216 numbers: 1216 principal components of the distance grid, 64 patches of 19, 64 tokens of 16 and their points,
32 cubes of 34 components with their places. Autoencoders come from runs of `rectiflow train shapes stage=autoencoder`
(`representation=latent_set`, that with `representation.turning=true`, `latent_grid representation.channels=19`); those without a
run are left out. With --turned the held-out solids are turned at random, while what is learnt was learnt of upright ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn import functional as F

from rectiflow_shapes.data import solids
from rectiflow_shapes.extraction import surface
from rectiflow_shapes.latent_grid import LatentGrid
from rectiflow_shapes.latent_set import LatentSet
from rectiflow_shapes.meshes import inspect
from rectiflow_shapes.metrics import chamfer
from rectiflow_shapes.mosaic_set import MosaicSet
from rectiflow_shapes.preparing import sample_surface
from rectiflow_shapes.principal_grid import PrincipalGrid
from rectiflow_shapes.representation import Representation
from rectiflow_shapes.shape_data import ShapeData, measure
from rectiflow_shapes.signed_distance import signed_distance
from rectiflow_shapes.solids import LONGEST_SIDE

POINTS = 20_000
SURFACE = 10_000


def representations(options: argparse.Namespace) -> dict[str, Representation]:
    made: dict[str, Representation] = {}
    if not options.learned_only:
        made["principal_grid"] = PrincipalGrid(components=1216, columns=19)
        made["mosaic"] = MosaicSet(cubes=32, nodes=9, rank=34)
    if options.latent_grid:
        made["latent_grid"] = LatentGrid(channels=19, run=options.latent_grid)
    if options.latent_set:
        made["latent_set"] = LatentSet(run=options.latent_set)
    if options.turning:
        made["latent_set, turning"] = LatentSet(run=options.turning, turning=True)
    return made


def turned(data: ShapeData) -> ShapeData:
    """The same shapes, each turned at random about a random axis and brought to their size again."""
    generator = np.random.default_rng(0)
    meshes, arrays = [], []
    for row in range(len(data)):
        mesh = data.mesh(row).copy()
        mesh.apply_transform(trimesh.transformations.random_rotation_matrix(generator.random(3)))
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        mesh.apply_scale(LONGEST_SIDE / mesh.extents.max())
        meshes.append(mesh)
        arrays.append(measure(mesh, generator))
    stacked = {name: torch.from_numpy(np.stack([each[name] for each in arrays])) for name in arrays[0]}
    return replace(data, key=f"{data.key}-turned", arrays=stacked, mesh=meshes.__getitem__)


def volume_iou(fields: Tensor, data: ShapeData, generator: torch.Generator) -> list[float]:
    """Of decoded fields (B, R, R, R), by the signs of exact distances at points of the box."""
    found = []
    for row, field in enumerate(fields):
        points = 2 * torch.rand(POINTS, 3, generator=generator) - 1
        truth = signed_distance(data.mesh(row), points) < 0
        # grid_sample counts axes from the last.
        values = F.grid_sample(field[None, None], points.flip(-1)[None, None, None], align_corners=True)
        inside = values.flatten() < 0
        found.append(float((inside & truth).sum() / (inside | truth).sum()))
    return found


def judge(representation: Representation, train: ShapeData, held: ShapeData) -> dict[str, float]:
    begun = time.process_time()
    representation.fit(train)
    fitting = time.process_time() - begun
    states = representation.encode(held)
    begun = time.process_time()
    fields = representation.decode(states)
    meshes = [surface(field) for field in fields]
    decoding = (time.process_time() - begun) / len(held)
    generator = torch.Generator().manual_seed(0)
    near, floors = [], []
    for row, mesh in enumerate(meshes):
        one, other = (sample_surface(held.mesh(row), SURFACE, generator)[0] for _ in range(2))
        floors.append(chamfer(other, one).cd_l1_half)
        if len(mesh.faces):
            near.append(chamfer(sample_surface(mesh, SURFACE, generator)[0], one).cd_l1_half)
    iou = volume_iou(fields, held, generator)
    return {
        "volume_iou": statistics.mean(iou),
        "volume_iou_worst_tenth": statistics.quantiles(iou, n=10)[0],
        "cd_l1_half": statistics.median(near),
        "cd_l1_half_floor": statistics.median(floors),
        "valid": statistics.mean(float(inspect(mesh).valid) for mesh in meshes),
        "fit_s": fitting,
        "decode_s": decoding,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="demo")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--trained", type=int, default=1600)
    parser.add_argument("--latent-set", default="")
    parser.add_argument("--latent-grid", default="")
    parser.add_argument("--turning", default="")
    parser.add_argument("--learned-only", action="store_true")
    parser.add_argument("--turned", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    splits = solids(options.family, options.trained, max(options.count, 2), 0)
    held = turned(splits.validation) if options.turned else splits.validation
    results = {}
    for name, representation in representations(options).items():
        results[name] = judge(representation, splits.train, held)
        print(name, json.dumps({key: round(value, 4) for key, value in results[name].items()}), file=sys.stderr)
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
