"""One deliberate mistake in the core's mathematics."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A line that is put wrong, and the tests that must notice.

    Attributes:
        file: path below core/rectiflow.
        source: text that occurs exactly once in that file.
        mutated: what it is replaced by.
        tests: names below tests/core, "spaces/rotations" for spaces/test_rotations.py, separated by blanks.
        equivalent: why no test can notice, for a mutant that is known to survive.
    """

    file: str
    source: str
    mutated: str
    tests: str
    equivalent: str = ""
