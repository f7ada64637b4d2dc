"""Blocks of text that scripts keep in a README."""

from __future__ import annotations

from pathlib import Path

import pytest
from marked_block import inserted, markers, write_block

from rectiflow.errors import DataError

ENDS = markers("figures", "some_table.py")


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{ENDS[0]}\nold\n{ENDS[1]}\nafter\n")
    assert write_block(path, "new\n", ENDS, check=True) == 1
    assert "old" in path.read_text()
    assert write_block(path, "new\n", ENDS, check=False) == 0
    assert path.read_text() == f"before\n{ENDS[0]}\nnew\n{ENDS[1]}\nafter\n"
    assert write_block(path, "new\n", ENDS, check=True) == 0


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match="no markers"):
        inserted(f"{ENDS[1]} {ENDS[0]}", "new", ENDS)
