"""What the stems of a run's mixtures are: what a query names and the rest, or all parts at once. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """The stems of a state.

    Attributes:
        names: of the stems.
        asked: whether a query says what the first of them is; else all are wanted.
        ordered: whether a stem has its place; speakers have none.
    """

    names: tuple[str, ...]
    asked: bool = True
    ordered: bool = True


ASKED = Layout(("target", "residual"))


def layout_of(data: Mapping[str, Any]) -> Layout:
    """The layout that a run's data settings stand for."""
    if "speakers" in data:
        names = tuple(f"speaker {number + 1}" for number in range(int(data["speakers"])))
        return Layout(names, asked=False, ordered=False)
    if "shuffled" in data:
        return Layout(tuple(data["stems"]), asked=False)
    return ASKED
