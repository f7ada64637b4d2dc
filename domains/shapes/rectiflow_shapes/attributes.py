"""What varies within a kind of built-in solid, and what the words for it are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from manifold3d import Manifold


@dataclass(frozen=True)
class Attribute:
    """What varies within a kind, from `low` to `high`, in the units of the building (the whole is about 1.8 long).

    Attributes:
        words: descriptions from low to high, each for an equal part of the range; "" says nothing, and those that begin with
            "with" stand after the noun.
        whole: only whole numbers.
    """

    name: str
    low: float
    high: float
    words: tuple[str, ...] = ()
    whole: bool = False

    def value(self, unit: float) -> float:
        """The value at `unit` in [0, 1) of the range."""
        if self.whole:
            return math.floor(self.low + unit * (self.high - self.low + 1))
        return self.low + unit * (self.high - self.low)

    def unit(self, value: float) -> float:
        """Where a value lies in the range, in [0, 1]."""
        return (value - self.low) / (self.high - self.low)

    def word(self, value: float) -> str:
        """The description of a value."""
        if not self.words:
            return ""
        span = self.high - self.low + (1 if self.whole else 0)
        return self.words[min(int((value - self.low) / span * len(self.words)), len(self.words) - 1)]


@dataclass(frozen=True)
class Kind:
    """A kind of solid: how it is built from the values of its attributes."""

    build: Callable[[Mapping[str, float]], Manifold]
    attributes: tuple[Attribute, ...]

    def ranging(self, *others: Attribute, **ranges: tuple[float, float]) -> Kind:
        """The same kind with some attributes replaced by `others` of the same name, and other ranges of more."""
        named = {a.name: a for a in self.attributes} | {other.name: other for other in others}
        for name, (low, high) in ranges.items():
            named[name] = replace(named[name], low=low, high=high)
        return Kind(self.build, tuple(named.values()))
