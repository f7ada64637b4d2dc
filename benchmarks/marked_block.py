"""What a script writes into a README: a block of text between two markers, which a test compares with what is stored."""

from __future__ import annotations

import sys
from pathlib import Path

from rectiflow.errors import DataError
from rectiflow.records import write_atomically


def markers(subject: str, script: str) -> tuple[str, str]:
    """The comments around a script's block."""
    return f"<!-- {subject}: begin (benchmarks/{script} writes what is between) -->", f"<!-- {subject}: end -->"


def inserted(readme: str, block: str, ends: tuple[str, str]) -> str:
    """A README's text with the block between its markers.

    Raises:
        DataError: a marker is missing.
    """
    before, begin, rest = readme.partition(ends[0])
    _, end, after = rest.partition(ends[1])
    if not begin or not end:
        raise DataError(f"the README has no markers; it must hold {ends[0]!r} and, below, {ends[1]!r}")
    return f"{before}{begin}\n{block}{end}{after}"


def write_block(path: Path, block: str, ends: tuple[str, str], *, check: bool) -> int:
    """Write a README's block, or only say by the exit code whether it is there as it should be.

    Raises:
        DataError: a marker is missing.
    """
    present = path.read_text(encoding="utf-8")
    wanted = inserted(present, block, ends)
    if check:
        if present != wanted:
            print(f"{path} differs from what is stored in benchmarks/results; run {sys.argv[0]}", file=sys.stderr)
        return int(present != wanted)
    write_atomically(path, wanted)
    return 0
