"""A study: one teacher, many few-step students of equal cost, and how each of them is measured. Free of torch.

A domain names its studies in `DomainSpec.studies`; `rectiflow bench <study>` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One distillation: its method, further settings of `rectiflow distill`, and its share of the student's updates."""

    method: str
    settings: tuple[str, ...] = ()
    share: float = 1.0


@dataclass(frozen=True)
class Entry:
    """A student of the study.

    Attributes:
        name: of its folder.
        title: of its row.
        stages: the first distils the teacher, each later one the student before it; none measures the teacher itself.
        samplers: as in `evaluation.samplers`.
        pairs: whether it trains on the study's pairs of the teacher, whose cost then counts.
        cost: of an update beside one of flow matching, about; the dearest entries begin.
    """

    name: str
    title: str
    stages: tuple[Stage, ...] = ()
    samplers: tuple[str, ...] = ("euler-1", "euler-2", "euler-4")
    pairs: bool = False
    cost: float = 1.0


@dataclass(frozen=True)
class Study:
    """What `rectiflow bench` runs.

    Attributes:
        summary: one line.
        recipe: of the teacher.
        entries: the students, and the teacher as an entry without stages.
        metrics: figure's name -> title, the first the one that is drawn.
        bar: name of an entry and a sampler of it that one step is compared with.
        training: settings of every student's training.
        pairs: solver and steps of the pairs.
    """

    summary: str
    recipe: str
    entries: tuple[Entry, ...]
    metrics: Mapping[str, str]
    bar: tuple[str, str]
    training: tuple[str, ...] = ()
    pairs: tuple[str, int] = ("midpoint", 12)
