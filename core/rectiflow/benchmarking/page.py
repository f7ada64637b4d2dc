"""report.html of a study, and of all studies together: made from the stored measurements alone, self-contained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from rectiflow.benchmarking.catalogue import PAGES
from rectiflow.benchmarking.layout import Figure, Layout, Table
from rectiflow.benchmarking.measurement import FILE, Measurement, read_measurements
from rectiflow.benchmarking.regression import Change, compare
from rectiflow.domain import load_object
from rectiflow.errors import ConfigError, DataError
from rectiflow.records import write_atomically
from rectiflow.report_table import number

BASELINES = Path("benchmarks", "baseline")
PAGE = "report.html"
SHOWN_VALUES = 4
FIGURE_SPACE, PUNCTUATION_SPACE = "\N{FIGURE SPACE}", "\N{PUNCTUATION SPACE}"


@dataclass(frozen=True)
class Chapter:
    """A study as the page shows it."""

    name: str
    layout: Layout
    measurements: list[Measurement]
    commands: list[str]
    changes: list[Change]
    machines: list[tuple[dict[str, Any], str]]


def write_page(folder: Path, *, baselines: Path = BASELINES) -> Path:
    """Write one study's page into its folder, and return the page.

    `baselines` holds the stored figures that it is compared with, <name of the folder>.json.

    Raises:
        ConfigError: nothing was measured there, or by a study that is not known.
        DataError: the measurements or the baseline are damaged.
        StorageError: the page cannot be written.
    """
    chapter = read_chapter(folder, baselines)
    return _write(folder / PAGE, chapter.layout.title, [chapter])


def write_combined(root: Path, *, baselines: Path = BASELINES) -> Path:
    """Write one page of all studies whose folders are in `root`, and return it.

    Raises:
        ConfigError: there are none.
        DataError, StorageError: see `write_page`.
    """
    order = list(PAGES)
    folders = sorted(path.parent for path in root.glob(f"*/{FILE}"))
    chapters = [read_chapter(folder, baselines) for folder in folders]
    if not chapters:
        raise ConfigError(f"{root} holds no study; run one first, for example `rectiflow bench domains quick=true`")
    chapters.sort(key=lambda chapter: (order.index(chapter.measurements[0].study), chapter.name))
    return _write(root / PAGE, "Benchmarks of rectiflow", chapters)


def read_chapter(folder: Path, baselines: Path = BASELINES) -> Chapter:
    """What a study's folder has to tell.

    Raises:
        ConfigError: nothing was measured there, or by a study that is not known.
        DataError: the measurements or the baseline are damaged.
    """
    measurements = read_measurements(folder / FILE)
    if not measurements:
        raise ConfigError(f"{folder} holds no measurements; run the study first")
    unknown = [entry.study for entry in measurements if entry.study not in PAGES]
    if unknown:
        raise DataError(f"{folder / FILE}: study {unknown[0]!r} is unknown; allowed: {', '.join(PAGES)}")
    page = PAGES[measurements[0].study]
    layout: Layout = load_object(page.layout, extra="bench")(measurements)
    commands = [line.command for table in _tables(layout) for line in table.lines if line.command]
    commands = list(dict.fromkeys([*commands, *(entry.command for entry in measurements)]))
    changes = compare(baselines / f"{folder.name}.json", measurements, page.watched)
    return Chapter(folder.name, layout, measurements, commands, changes, _machines(measurements))


def _tables(layout: Layout) -> list[Table]:
    return [block for section in layout.sections for block in section.blocks if isinstance(block, Table)]


def _write(path: Path, title: str, chapters: Sequence[Chapter]) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("bench.html").render(
        title=title,
        chapters=chapters,
        counter=_Counter(),
        is_table=lambda block: isinstance(block, Table),
        is_figure=lambda block: isinstance(block, Figure),
        aligned=aligned,
        number=number,
        tally=tally,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_atomically(path, page)
    return path


class _Counter:
    """Numbers of tables and figures, over the whole page."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def next(self, kind: str) -> int:
        self._last[kind] = self._last.get(kind, 0) + 1
        return self._last[kind]


def aligned(table: Table) -> list[list[str]]:
    """The cells of a table, numbers padded after their point with spaces as wide as digits, so that points stand in line."""
    if not table.lines:
        return []
    columns = list(zip(*(line.cells for line in table.lines), strict=True))
    padded = [
        _aligned(texts) if column.kind == "number" else list(texts)
        for column, texts in zip(table.columns, columns, strict=True)
    ]
    return [list(cells) for cells in zip(*padded, strict=True)]


def _aligned(texts: Sequence[str]) -> list[str]:
    tails = [len(text.partition(".")[2]) if _plain(text) else 0 for text in texts]
    longest = max(tails, default=0)
    point = any(tails)
    return [
        text + FIGURE_SPACE * (longest - tail) + (PUNCTUATION_SPACE if point and not tail else "")
        if _plain(text)
        else text
        for text, tail in zip(texts, tails, strict=True)
    ]


def _plain(text: str) -> bool:
    """Whether a text is a number without exponent, unit or interval."""
    return text.lstrip("-\N{MINUS SIGN}+").replace(",", "").replace(".", "", 1).isdigit()


def tally(changes: Sequence[Change]) -> dict[str, int]:
    """How many figures became better, worse, stayed the same or are gone."""
    found = {name: sum(change.verdict == name for change in changes) for name in ("better", "same", "worse", "gone")}
    return {name: count for name, count in found.items() if count}


def _machines(measurements: Sequence[Measurement]) -> list[tuple[dict[str, Any], str]]:
    """Each machine that measured, with the range of its load; what changed on it while the study went on stands in a row."""
    groups: dict[tuple[str, ...], list[Measurement]] = {}
    for entry in measurements:
        name = tuple(str(entry.machine.get(key)) for key in ("cpu", "gpu", "platform"))
        groups.setdefault(name, []).append(entry)
    found = []
    for entries in groups.values():
        machine = {key: _in_a_row([entry.machine.get(key) for entry in entries]) for key in _keys(entries)}
        loads = [entry.load for entry in entries if entry.load is not None]
        found.append((machine, f"{min(loads):.1f} to {max(loads):.1f}" if loads else ""))
    return found


def _keys(entries: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(key for entry in entries for key in entry.machine))


def _in_a_row(values: Sequence[Any]) -> Any:
    """The one value, all of a few, or the first and the last of many; mappings are put together."""
    if any(isinstance(value, Mapping) for value in values):
        return {name: text for value in values if isinstance(value, Mapping) for name, text in value.items()}
    texts = list(dict.fromkeys(str(value) for value in values if value is not None))
    if len(texts) > SHOWN_VALUES:
        return f"{texts[0]} to {texts[-1]} ({len(texts)})"
    return ", ".join(texts) or None
