"""Quality of backbones against evaluations, rotations linear or exponential, before and after reflow, and with an oracle.

The oracle knows which chain each noise shall become: what it leaves is the sampler's own error. One table and one figure.

    python benchmarks/protein_schedules.py runs/proteins/demo/base runs/proteins/demo/rectified [--count 128] [--out figures]

writes protein_schedules.png, .md (the table) and .json (all figures).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from matplotlib.lines import Line2D
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.domain import load_spec
from rectiflow.drawing import carry, draw_sources
from rectiflow.flow import Flow
from rectiflow.interpolants import Exponential
from rectiflow.sampling import integrate
from rectiflow.schedules import scheduled
from rectiflow.spaces.so3 import SO3
from rectiflow.trained import open_run
from rectiflow_proteins.alignment import rmsd
from rectiflow_proteins.domain import Proteins, backbones
from rectiflow_proteins.metrics import figures
from rectiflow_proteins.secondary import secondary_structure

STEPS = (1, 2, 5, 10, 20, 50, 200)
SHOWN = (
    ("ca_valid", "CA-CA 3.8 +- 0.4 A"),
    ("peptide_valid", "C-N 1.33 +- 0.3 A"),
    ("helix", "helix"),
    ("strand", "strand"),
)
DRAWN_PATHS = 32


class Oracle:
    """Estimates that are right from the start."""

    def __init__(self, data: dict[str, Tensor]) -> None:
        self.data = data

    def __call__(self, x: dict[str, Tensor], t: Tensor, **cond: object) -> dict[str, Tensor]:
        return self.data


def samples(flow: Flow, x0: Any, cond: Cond, steps: int, rate: float) -> dict[str, Tensor]:
    """Frames after so many steps, rotations approached at a rate, or linearly where it is 0."""
    if rate:
        flow = scheduled(flow, {"rotations": Exponential(rate)})
    drawn = carry(flow, x0, cond, method="ddim", steps=steps, batch=64)
    x: dict[str, Tensor] = drawn.x
    return x


def rows(name: str, flow: Flow, x0: Any, cond: Cond, schedules: dict[str, float]) -> Iterable[dict[str, Any]]:
    """Figures for every number of steps and both schedules."""
    for steps in STEPS:
        for schedule, rate in schedules.items():
            chains = backbones(samples(flow, x0, cond, steps, rate), cond)
            found = figures(chains, secondary_structure([chain[:, 1] for chain in chains]))
            yield {"model": name, "steps": steps, "schedule": schedule, **found}


def oracle_rows(
    x0: Any, data: dict[str, Tensor], flow: Flow, cond: Cond, schedules: dict[str, float]
) -> Iterable[dict[str, Any]]:
    """CA RMSD and the share of the rotation that is left, with the oracle."""
    knowing = replace(flow, model=Oracle(data), self_conditioning=False, null=None)
    angle = SO3().distance(x0["rotations"], data["rotations"])
    for steps in STEPS:
        for schedule, rate in schedules.items():
            x = samples(knowing, x0, cond, steps, rate)
            left = SO3().distance(x["rotations"], data["rotations"]) / angle
            gap = rmsd(x["translations"], data["translations"])
            yield {"steps": steps, "schedule": schedule, "ca_rmsd": float(gap.max()), "angle_left": float(left.mean())}


def path_straightness(flow: Flow, x0: Any, cond: Cond) -> dict[str, float]:
    """Mean over 50 steps of how far the velocity is from the one that goes straight to the end, relative; by component."""
    few = {name: part[:DRAWN_PATHS] for name, part in x0.items()}
    seen: list[dict[str, Tensor]] = []
    solution = integrate(
        flow,
        few,
        steps=50,
        cond={name: part[:DRAWN_PATHS] for name, part in cond.items()},
        observe=lambda step, t, x, velocity: seen.append(velocity),
    )
    straight = flow.space.log(few, solution.x)
    return {
        name: float(torch.stack([(v[name] - way).norm() for v in seen]).mean() / way.norm())
        for name, way in straight.items()
    }


def draw(found: list[dict[str, Any]], path: Path, natives: dict[str, float]) -> None:
    """One panel a figure; the data's own value is the dotted line."""
    models = list(dict.fromkeys(row["model"] for row in found))
    figure, axes = pyplot.subplots(1, len(SHOWN), figsize=(3.4 * len(SHOWN), 3.0), constrained_layout=True)
    for axis, (key, title) in zip(axes, SHOWN, strict=True):
        for number, model in enumerate(models):
            for schedule, style in (("linear", "-"), ("exponential", "--")):
                line = [row for row in found if row["model"] == model and row["schedule"] == schedule]
                axis.plot(
                    [row["steps"] for row in line],
                    [row[key] for row in line],
                    style,
                    color=f"C{number}",
                    marker="o",
                    ms=3,
                )
        axis.axhline(natives[key], color="0.5", lw=0.8, ls=":")
        axis.set(xscale="log", title=title, xlabel="evaluations", ylim=(0, 1.03))
    handles = [Line2D([], [], color=f"C{number}", label=model) for number, model in enumerate(models)]
    styles = (("linear", "-"), ("exponential", "--"))
    handles += [Line2D([], [], color="0.2", ls=style, label=name) for name, style in styles]
    axes[0].legend(handles=handles, fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def table(found: list[dict[str, Any]], natives: dict[str, float]) -> str:
    """A row for every number of steps: C-N and no clash, then helix and strand, of each model on each schedule."""
    kinds = list(dict.fromkeys((row["model"], row["schedule"]) for row in found))
    values = {(row["model"], row["schedule"], row["steps"]): row for row in found}
    lines = [
        "| evaluations | " + " | ".join(f"{model}, {schedule}" for model, schedule in kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for steps in STEPS:
        cells = [_cell(values[*kind, steps]) for kind in kinds]
        lines.append(f"| {steps} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Held-out chains: {_cell(natives)}", ""])


def _cell(row: dict[str, Any]) -> str:
    return f"{row['peptide_valid']:.3f}, {row['clash_free']:.2f}; {row['helix']:.2f}, {row['strand']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="+", type=Path, help="the base run, then those rectified from it")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rate", type=float, default=20.0, help="of the exponential schedule")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("."))
    options = parser.parse_args()
    schedules = {"linear": 0.0, "exponential": options.rate}
    opened = [open_run(load_spec("proteins"), folder) for folder in options.runs]
    domain = opened[0].domain
    if not isinstance(domain, Proteins):
        raise SystemExit("these are not runs of proteins")
    generator = torch.Generator().manual_seed(options.seed)
    cond = domain.conditions(options.count, generator)
    x0: Any = draw_sources(domain, opened[0].flow, cond, options.count, generator)
    found: list[dict[str, Any]] = []
    for trained in opened:
        for row in rows(trained.folder.name, trained.flow, x0, cond, schedules):
            found.append(row)
            print(
                " ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()),
                flush=True,
            )
    batch = domain.dataset("validation").__getitems__(list(range(16)))
    natives_chains = [domain.splits[1].chain(i) for i in range(min(options.count, len(domain.splits[1])))]
    natives = figures(natives_chains, secondary_structure([chain[:, 1] for chain in natives_chains]))
    data: Any = batch.x1
    noise: Any = opened[0].flow.sample_source(
        {name: tuple(part.shape) for name, part in data.items()}, batch.cond, generator
    )
    oracle = list(oracle_rows(noise, data, opened[0].flow, batch.cond, schedules))
    bent = {trained.folder.name: path_straightness(trained.flow, x0, cond) for trained in opened}
    options.out.mkdir(parents=True, exist_ok=True)
    draw(found, options.out / "protein_schedules.png", natives)
    (options.out / "protein_schedules.md").write_text(table(found, natives))
    facts = {
        "rate": options.rate,
        "rows": found,
        "natives": natives,
        "oracle": oracle,
        "straightness": bent,
        "count": options.count,
    }
    (options.out / "protein_schedules.json").write_text(json.dumps(facts, indent=1))
    print(
        f"angle left by the oracle, exponential: {math.exp(-options.rate):.2e} expected, {[row['angle_left'] for row in oracle]}"
    )
    print(f"straightness: {bent}")


if __name__ == "__main__":
    main()
