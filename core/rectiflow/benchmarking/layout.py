"""What a study's page consists of: sections of sentences, tables and figures. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A column: text is set to the left; numbers, written as text, are aligned at their point."""

    title: str
    kind: Literal["text", "number"] = "number"


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        cells: one text a column; numbers are best written by `rectiflow.report_table.number`.
        command: that measures the line; the page lists each once and the line points to it.
        group: lines of one group stand under its name.
        strong: numbers of the columns that are set in bold.
        muted: a reference rather than a result.
    """

    cells: Sequence[str]
    command: str = ""
    group: str = ""
    strong: frozenset[int] = frozenset()
    muted: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption above and a note below."""

    caption: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Drawings, `<svg>` elements side by side, with a caption below."""

    caption: str
    drawings: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it: sentences, tables and figures in their order."""

    title: str
    blocks: Sequence[str | Table | Figure]


@dataclass(frozen=True)
class Layout:
    """A study's page.

    Attributes:
        title: of the study.
        summary: what is measured and how, in a sentence or two.
        findings: what came out, a sentence each, with its numbers.
        sections: everything else.
    """

    title: str
    summary: str
    findings: Sequence[str] = ()
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Watch:
    """A figure that must not get worse: which way is better, and what may change by chance or by machine.

    A value counts as worse when it is worse than the stored one by more than `absolute` + `relative` * |stored|.
    """

    better: Literal["lower", "higher"]
    relative: float = 0.1
    absolute: float = 0.0


@dataclass(frozen=True)
class StudyPage:
    """How measurements of one kind are shown.

    Attributes:
        layout: "package.module:function" from a study's measurements to its `Layout`.
        watched: figure -> how it is compared with a stored baseline; the others are not.
    """

    layout: str
    watched: Mapping[str, Watch] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchStudy:
    """A study of the core's, as the command line sees it.

    Attributes:
        summary: one line.
        settings: dataclass of what may be set; it has `name` and `out`.
        run: "package.module:function" that takes the configuration, measures what is missing and returns the page's path.
        page: how its measurements are shown.
    """

    summary: str
    settings: type
    run: str
    page: StudyPage
