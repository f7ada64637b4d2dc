"""The sampler `boss`: Euler's method on the grid of least error (arXiv 2312.16414), found once a run and number of steps."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from rectiflow.control.guidance import Guidance
from rectiflow.drawing import draw_sources, move
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.records import write_atomically
from rectiflow.rectify.optimal_steps import step_costs
from rectiflow.solvers.catalogue import solver
from rectiflow.trained import Trained

BOSS = "boss"
GRIDS_FILE = "boss.json"
FINE = 100
SAMPLES = 256


def check_method(name: str) -> None:
    """Refuse a name that is neither a solver's nor `boss`.

    Raises:
        ConfigError: as said.
    """
    if name != BOSS:
        solver(name)


def walk(trained: Trained, flow: Flow, method: str, steps: int, guidance: float) -> tuple[str, Tensor | None]:
    """The solver to sample with, and its grid where it is not the usual one.

    Raises:
        ConfigError: more steps than the fine grid has.
    """
    if method != BOSS:
        return method, None
    if steps > FINE:
        raise ConfigError(f"boss has {steps} steps; it chooses among {FINE}: use at most so many")
    path = trained.folder / GRIDS_FILE
    grids = json.loads(path.read_text()) if path.is_file() else {}
    key = f"{steps} steps, guidance {guidance:g}"
    if key not in grids:
        generator = torch.Generator().manual_seed(0)
        cond = trained.domain.conditions(SAMPLES, generator)
        x0 = move(draw_sources(trained.domain, flow, cond, SAMPLES, generator), trained.device)
        costs = step_costs(flow, x0, fine=FINE, cond=move(cond, trained.device), guidance=Guidance(float(guidance)))
        grids[key] = costs.optimal_times(steps).tolist()
        write_atomically(path, json.dumps(grids, indent=1) + "\n")
    return "euler", torch.tensor(grids[key], dtype=torch.float64)
