"""The built-in solids: families of kinds, drawn by index, watertight and of one body, with their attributes and a caption."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import trimesh
from manifold3d import Manifold

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.attributes import Kind
from rectiflow_shapes.kinds import DEMO, WIDE

Split = Literal["train", "validation"]

LONGEST_SIDE = 1.8
"""Longest side of the bounding box of every shape, centred in [-1, 1]^3."""
FAMILIES: Mapping[str, Mapping[str, Kind]] = {"demo": DEMO, "wide": WIDE}
"""Families of solids, each kind by name: "demo" has no wall thinner than 1.5 cells of a 32^3 grid, "wide" has thin parts."""

_CELLS = 8
_ATTEMPTS = 100
_MENTIONED = 0.7


@dataclass(frozen=True)
class Solid:
    """One solid.

    Attributes:
        mesh: watertight, in [-0.9, 0.9]^3, y up, its front towards +z.
        kind: name of its kind.
        label: place of its kind among the kinds of the family.
        attributes: what varies, in the units of the building.
        units: the same in [0, 1] of their ranges; 0.5 where the range is a single value.
        caption: a true description of some of it.
    """

    mesh: trimesh.Trimesh
    kind: str
    label: int
    attributes: dict[str, float]
    units: dict[str, float]
    caption: str


def draw(family: str, index: int, seed: int = 0, split: Split = "train") -> Solid:
    """The solid of this index in a family; kinds follow one another, so that any run of indices is balanced.

    The same arguments give the same solid, whatever else was drawn. The validation split holds the combinations of the first
    two continuous attributes that the training split never has: one cell of every row and column of a lattice of 8 x 8.

    Args:
        family: "demo" or "wide".
        index: 0 or more; any number of solids can be drawn.
        seed: of the family; other seeds give other solids.
        split: "train" or "validation".

    Raises:
        ConfigError: an unknown family or split, or a negative index or seed.
        DataError: no single body came out of many attempts.
    """
    kinds = family_kinds(family)
    if split not in ("train", "validation"):
        raise ConfigError(f"split is {split!r}; it must be train or validation")
    if index < 0 or seed < 0:
        raise ConfigError(f"index {index} and seed {seed} must be 0 or more")
    label = index % len(kinds)
    name, kind = list(kinds.items())[label]
    generator = np.random.default_rng([seed, index, split == "validation", *family.encode()])
    for _ in range(_ATTEMPTS):
        draws = dict(zip((a.name for a in kind.attributes), generator.random(len(kind.attributes)), strict=True))
        if held_out(kind, draws) != (split == "validation"):
            continue
        values = {a.name: a.value(draws[a.name]) for a in kind.attributes}
        manifold = kind.build(values)
        if len(manifold.decompose()) != 1:
            continue
        units = {a.name: a.unit(values[a.name]) if a.high > a.low else 0.5 for a in kind.attributes}
        return Solid(to_mesh(manifold), name, label, values, units, describe(name, kind, values, generator))
    raise DataError(
        f"no {name} of one body in {_ATTEMPTS} attempts (family {family}, index {index}): change its ranges"
    )


def family_kinds(family: str) -> Mapping[str, Kind]:
    """The kinds of a family by name, in the order of their labels.

    Raises:
        ConfigError: an unknown family.
    """
    if family not in FAMILIES:
        raise ConfigError(f"there is no family {family!r} of solids; there are {', '.join(FAMILIES)}: name one of them")
    return FAMILIES[family]


def held_out(kind: Kind, draws: Mapping[str, float]) -> bool:
    """Whether these places in the ranges, in [0, 1), are a combination of the validation split."""
    first, second = (int(_CELLS * draws[a.name]) for a in [a for a in kind.attributes if not a.whole][:2])
    return (first + 3 * second) % _CELLS == 0


def describe(name: str, kind: Kind, values: Mapping[str, float], generator: np.random.Generator) -> str:
    """A sentence fragment on a solid of this kind: "a low round table with four legs"; some attributes go unmentioned."""
    words = [a.word(values[a.name]) for a in kind.attributes]
    told = [word for word in words if word and generator.random() < _MENTIONED]
    before = [word for word in told if not word.startswith(("with ", "on "))]
    after = [word.removeprefix("with ") for word in told if word.startswith("with ")]
    phrase = " ".join([*before, name, *(word for word in told if word.startswith("on "))])
    if after:
        phrase += " with " + re.sub(r", ([^,]*)$", r" and \1", ", ".join(after))
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def to_mesh(manifold: Manifold) -> trimesh.Trimesh:
    """The manifold, turned from z up to y up, centred, its longest side 1.8."""
    raw = manifold.rotate((-90.0, 0.0, 0.0)).to_mesh64()
    vertices = np.asarray(raw.vert_properties, dtype=np.float64)[:, :3]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) * (LONGEST_SIDE / (high - low).max())
    return trimesh.Trimesh(vertices, np.asarray(raw.tri_verts, dtype=np.int64), process=False)
