"""Pairs of a trained run, for the verbs that train on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from rectiflow.batch import Shape
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.pairs import PairStore
from rectiflow.schedules import exponentials, scheduled
from rectiflow.trained import Trained


def make_pairs(
    teacher: Trained,
    folder: Path,
    *,
    count: int,
    method: str,
    steps: int,
    exponential: Mapping[str, float],
    **settings: Any,
) -> PairStore:
    """Make, or finish, a store of the teacher's pairs, with a bar of progress.

    `exponential` holds rates of sampling schedules by component; other arguments and errors as in `generate_pairs`.
    """
    domain = teacher.domain
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{count} pairs ({method}, {steps} steps)", total=count)
        return generate_pairs(
            scheduled(teacher.flow, exponentials(exponential)),
            folder,
            count=count,
            shape=_per_sample(domain.sample_shape(1, {})),
            conditions=domain.conditions,
            steps=steps,
            method=method,
            device=teacher.device,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )


def _per_sample(shape: Shape) -> Shape:
    return {name: part[1:] for name, part in shape.items()} if isinstance(shape, dict) else shape[1:]
