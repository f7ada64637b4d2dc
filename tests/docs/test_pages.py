"""The pages' Python runs, and prints what stands below it."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name != "index.md")
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def shape(text: str) -> list[str]:
    """What is printed, its numbers replaced, whatever room they took."""
    return NUMBER.sub("#", text).split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    blocks = list(BLOCK.finditer(page.read_text()))
    assert any(block["output"] for block in blocks), "a page shows something"
    for block in blocks:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block["code"], page.name, "exec", dont_inherit=True), namespace)  # noqa: S102 - our own text
        if block["output"] is None:
            continue
        assert shape(printed.getvalue()) == shape(block["output"])
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed.getvalue(), block["output"])]
        # Rounding differs between processors, and may fall on either side of a last digit.
        assert numbers[0] == pytest.approx(numbers[1], rel=0.03, abs=0.011)


def test_index_lists_every_page() -> None:
    listed = re.findall(r"\]\((\w+\.md)\)", (DOCS / "index.md").read_text())
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", [*PAGES, DOCS / "index.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (DOCS / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_to_open_exist(page: Path) -> None:
    [line] = re.findall(r"\*\*Open\*\*: (.*?)\n\n", page.read_text(), re.DOTALL)
    root = DOCS.parent
    for path in re.findall(r"`([\w/]+(?:\.py|/)|tests/[\w/]+)`", line):
        assert (root / "core" / "rectiflow" / path).exists() or (root / path).exists(), path
