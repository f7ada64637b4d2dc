"""docs/proofs.md names tests that exist and run, one for every letter of the acceptance set and for every known bug."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "proofs.md").read_text()
BUGS = "tests/core/test_peer_bugs.py"
NAMED = re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", PAGE)


def functions(file: str) -> dict[str, str]:
    """Test name -> the source of its decorators."""
    tree = ast.parse((ROOT / file).read_text())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {node.name: " ".join(ast.unparse(part) for part in node.decorator_list) for node in found}


@pytest.mark.parametrize("name", NAMED)
def test_named_tests_exist_and_are_fast(name: str) -> None:
    file, test = name.split("::")
    assert (ROOT / file).is_file()
    assert test in functions(file)
    assert "mark.slow" not in functions(file)[test]


def test_every_letter_and_every_bug_has_its_test() -> None:
    assert set(re.findall(r"^\| ([A-N]) \|", PAGE, re.MULTILINE)) == set("ABCDEFGHIJKLMN")
    of_bugs = {name.split("::")[1] for name in NAMED if name.startswith(BUGS)}
    assert of_bugs == set(functions(BUGS))
    assert len(of_bugs) == 18
