"""Shapes led to a point cloud: Chamfer distance of guided samples to a held-out shape, beside the best of unguided ones.

    python benchmarks/shapes_guided.py runs/shapes/demo/base [--kind chair] [--shapes 8] [--points 512] [--starts 4]
        [--picture guided.png]

Unguided samples are of the same kind and, as the guided one, of 25 Euler steps. The guided one is led from several starts, and
that which comes nearest to the points that are given (by its loss; the shape itself is not looked at) is taken. Distances are
sums of squares (cd_l2sq_sum), and unsquared and halved (cd_l1_half), at 30 000 points a shape as DeepSDF takes: at fewer their
floor hides what is measured. Next to them stands the distance of the shape from itself, encoded and decoded, and of two samplings
of its surface (the floor).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import cast

import torch
import trimesh
from torch import Tensor

from rectiflow.domain import load_spec
from rectiflow.errors import RectiflowError
from rectiflow.sampling import integrate
from rectiflow.trained import open_run
from rectiflow_shapes.domain import Shapes
from rectiflow_shapes.guiding import match_points, sample_guided
from rectiflow_shapes.metrics import chamfer
from rectiflow_shapes.preparing import sample_surface
from rectiflow_shapes.rendering import contact_sheet

STEPS = 25
JUDGED = 30_000


def distance(a: trimesh.Trimesh, b: trimesh.Trimesh) -> Tensor:
    """Chamfer distances of 30 000 points each, of squares and (halved) unsquared, (2,); infinite for an empty mesh."""
    if not len(a.faces) or not len(b.faces):
        return torch.full((2,), torch.inf)
    generator = torch.Generator().manual_seed(0)
    found = chamfer(sample_surface(a, JUDGED, generator)[0], sample_surface(b, JUDGED, generator)[0])
    return torch.tensor([found.cd_l2sq_sum, found.cd_l1_half])


def written(distances: Tensor) -> str:
    return f"{distances[0]:.2e}, {distances[1]:.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--kind", default="chair")
    parser.add_argument("--shapes", type=int, default=8)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--unguided", type=int, default=8)
    parser.add_argument("--corrections", type=int, default=10)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    try:
        trained = open_run(load_spec("shapes"), options.run)
    except RectiflowError as error:
        print(error, file=sys.stderr)
        return 1
    domain = cast(Shapes, trained.domain)
    held, representation = domain.splits.validation, domain.representation
    if options.kind not in held.kinds:
        print(f"--kind is {options.kind!r}; allowed: {', '.join(held.kinds)}", file=sys.stderr)
        return 1
    rows = (held.labels == held.kinds.index(options.kind)).nonzero()[: options.shapes, 0]
    generator = torch.Generator().manual_seed(0)
    ratios, sheet, names = [], [], []
    print(
        "| shape | guided | best of unguided | ratio | encoded and decoded | floor | s |\n|---|---|---|---|---|---|---|"
    )
    for row in rows.tolist():
        mesh = held.mesh(row)
        wanted = sample_surface(mesh, options.points, generator)[0]
        cond = domain.conditions(options.unguided, generator, kind=options.kind)
        x0 = trained.flow.sample_source(domain.sample_shape(options.unguided, cond), cond, generator)
        with torch.no_grad():
            free = representation.meshes(integrate(trained.flow, x0, steps=STEPS, cond=cond).x)
        began = time.perf_counter()
        loss = match_points(wanted)
        led = sample_guided(
            trained.flow,
            x0[: options.starts],
            representation,
            loss,
            steps=STEPS,
            corrections=options.corrections,
            cond={name: value[: options.starts] for name, value in cond.items()},
        ).x.detach()
        nearest = int(loss(representation.decode(led)).argmin())
        seconds = time.perf_counter() - began
        guided = representation.meshes(led[[nearest]])[0]
        coded = representation.meshes(representation.encode(held.pick(torch.tensor([row]))))[0]
        apart = torch.stack([distance(mesh, other) for other in free])
        best = apart.amin(0)
        ratios.append(distance(mesh, guided) / best)
        print(
            f"| {row} | {written(distance(mesh, guided))} | {written(best)} | {ratios[-1][0]:.2f}, {ratios[-1][1]:.2f} "
            f"| {written(distance(mesh, coded))} | {written(distance(mesh, mesh))} | {seconds:.1f} |",
            flush=True,
        )
        sheet += [mesh, guided, free[int(apart[:, 0].argmin())]]
        names += ["held out", "guided", "best unguided"]
    for name, column in zip(("squared", "unsquared"), torch.stack(ratios).T, strict=True):
        within = int((column <= 0.5).sum())
        print(
            f"{name}: median ratio {statistics.median(column.tolist()):.2f}, at most a half for {within} of {len(column)}"
        )
    if options.picture:
        contact_sheet(sheet, captions=names, columns=6).save(options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
