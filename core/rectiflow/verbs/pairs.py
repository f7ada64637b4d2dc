"""Pairs of a trained run, for the verbs that train on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from rectiflow.batch import Shape
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.inverting import invert_pairs
from rectiflow.rectify.mixture import Mixture
from rectiflow.rectify.pairs import PairStore
from rectiflow.rectify.selection import Pairs, score_pairs, select_pairs
from rectiflow.rectify.shards import write_file
from rectiflow.schedules import exponentials, scheduled
from rectiflow.trained import Trained


def training_pairs(teacher: Trained, folder: Path, pairs: Mapping[str, Any]) -> Pairs:
    """The pairs that a student of a run trains on, and pairs.json in its folder, which says what they are.

    Args:
        teacher: the run.
        folder: the student's; the store becomes its folder "pairs", inverted data its folder "inverted".
        pairs: as in `PairsSettings`.

    Raises:
        ConfigError: a domain without a quality score, or see `generate_pairs` and `invert_pairs`.
    """
    settings = dict(pairs)
    place, keep, real = settings.pop("folder"), settings.pop("keep"), settings.pop("real")
    found: Pairs = PairStore(place) if place else make_pairs(teacher, folder / "pairs", **settings)
    if keep < 1:
        found = select_pairs(found, score_pairs(found, teacher.domain.quality), share=keep)
    if real:
        data = teacher.domain.dataset("train")
        inverted = invert_pairs(
            teacher.flow, folder / "inverted", data, steps=2 * settings["steps"], device=teacher.device
        )
        found = Mixture([(inverted, real), (found, 1 - real)])
    write_file(folder / "pairs.json", (json.dumps(found.provenance, indent=1, sort_keys=True) + "\n").encode())
    return found


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
            conditions=domain.teaching_conditions,
            steps=steps,
            method=method,
            device=teacher.device,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )


def _per_sample(shape: Shape) -> Shape:
    return {name: part[1:] for name, part in shape.items()} if isinstance(shape, dict) else shape[1:]
