"""Pairs of a trained run, for the verbs that train on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from rectiflow.batch import Shape
from rectiflow.errors import ConfigError
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.guidance_condition import Scales, guided_teacher, with_scales
from rectiflow.rectify.inverting import invert_pairs
from rectiflow.rectify.mixture import Mixture
from rectiflow.rectify.pairs import PairStore
from rectiflow.rectify.selection import Pairs, score_pairs, select_pairs
from rectiflow.rectify.shards import write_file
from rectiflow.schedules import exponentials, scheduled
from rectiflow.trained import Trained


def training_pairs(teacher: Trained, folder: Path, pairs: Mapping[str, Any], scales: Scales | None = None) -> Pairs:
    """The pairs that a student of a run trains on, and pairs.json in its folder, which says what they are.

    Args:
        teacher: the run.
        folder: the student's; the store becomes its folder "pairs", inverted data its folder "inverted".
        pairs: as in `PairsSettings`.
        scales: of guidance, one a pair, which it keeps as a condition.

    Raises:
        ConfigError: a domain without a quality score, real data among pairs of several scales, or see `generate_pairs` and
            `invert_pairs`.
    """
    settings = dict(pairs)
    place, keep, real = settings.pop("folder"), settings.pop("keep"), settings.pop("real")
    if real and scales is not None:
        raise ConfigError(
            f"pairs.real={real:g}: real data have no guidance scale to go with guidance_range; drop one of them"
        )
    found: Pairs = PairStore(place) if place else make_pairs(teacher, folder / "pairs", scales=scales, **settings)
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
    scales: Scales | None = None,
    **settings: Any,
) -> PairStore:
    """Make, or finish, a store of the teacher's pairs, with a bar of progress.

    `exponential` holds rates of sampling schedules by component, `scales` the range of guidance that each pair has one of; other
    arguments and errors as in `generate_pairs`.
    """
    domain, conditions = teacher.domain, teacher.domain.teaching_conditions
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{count} pairs ({method}, {steps} steps)", total=count)
        return generate_pairs(
            guided_teacher(scheduled(teacher.flow, exponentials(exponential)), scales),
            folder,
            count=count,
            shape=_per_sample(domain.sample_shape(1, {})),
            conditions=conditions if scales is None else with_scales(conditions, scales),
            steps=steps,
            method=method,
            device=teacher.device,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )


def _per_sample(shape: Shape) -> Shape:
    return {name: part[1:] for name, part in shape.items()} if isinstance(shape, dict) else shape[1:]
