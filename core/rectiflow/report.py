"""report.html: what a run, or a run and those it came from, achieved; one self-contained page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from rectiflow.errors import ConfigError, DataError
from rectiflow.records import Row, nfe_label, read_evaluation, read_lines, read_metrics, write_atomically
from rectiflow.report_figures import Level, Line, duration, history_curve, scatter_curve
from rectiflow.report_table import (
    Column,
    RunRecord,
    columns_of,
    commands_of,
    headline,
    number,
    ordered_rows,
    reference_rows,
    references_of,
    setting_rows,
)

SIZE_LIMIT = 3_000_000  # bytes: a report is something one sends by mail
PICTURE_SIDES = (1600, 1000, 640, 400, 240)  # pixels, tried in turn until the page is small enough
PICTURE_WIDTH = 960  # smaller pictures are enlarged by a whole factor, so that a browser does not blur them
PIXEL_LIMIT = 64_000_000
PREVIEWS = 6
HISTORY_POINTS = 600
GEOMETRY = {"straightness": "Straightness", "transport_cost": "Transport cost"}


@dataclass(frozen=True)
class Picture:
    """An embedded picture with what it shows; `uri` is None when it is missing or cannot be read."""

    caption: str
    uri: str | None


def write_report(
    runs: Sequence[Path], path: Path, *, title: str, summary: str = "", labels: Sequence[str] | None = None
) -> Path:
    """Write one html file, without outside requests, about a run and those it was rectified from.

    The only scripts are those of a domain's own view, which stands in a sandboxed frame.

    `runs` goes from the base to the newest; `labels` names them in the text (by default, their folder's name); `summary`
    says in one sentence what was trained on what. What a run does not hold is left out, and the page says so.

    Raises:
        ConfigError: no run is given, or not as many labels as runs.
        DataError: a run folder is missing or one of its records is damaged.
        StorageError: the page cannot be written.
    """
    if not runs:
        raise ConfigError("report: no run given; pass at least one run folder.")
    if labels is not None and len(labels) != len(runs):
        raise ConfigError(f"report: {len(labels)} labels for {len(runs)} runs; pass one label a run.")
    names = labels if labels is not None else [run.resolve().name for run in runs]
    records = [_read_run(run, name) for run, name in zip(runs, names, strict=True)]
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    facts = {"title": title, "summary": summary, "records": records, **_facts(records)}
    for side in PICTURE_SIDES:
        page = template.render(**facts, **_pictures(records, side))
        if len(page.encode()) < SIZE_LIMIT:
            break
    write_atomically(path, page)
    return path


def _read_run(run: Path, label: str) -> RunRecord:
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder; pass folders that `rectiflow train` or `reflow` made.")
    config = run / "config.yaml"
    return RunRecord(
        label=label,
        folder=run,
        evaluation=read_evaluation(run),
        figures=read_metrics(run),
        history=read_lines(run / "metrics.jsonl"),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
    )


def _facts(records: Sequence[RunRecord]) -> dict[str, Any]:
    columns = columns_of(records)
    commands = commands_of(records)
    references, settings = reference_rows(records, columns), setting_rows(records, columns)
    rows = [*references, *(row for _, rows in settings for row in rows)]
    machines: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for record in records:
        if record.evaluation.machine:
            machines.setdefault(tuple(record.evaluation.machine.items()), []).append(record.label)
    return {
        "headline": headline(records, columns),
        "columns": columns,
        "references": references,
        "settings": settings,
        "measured": bool(rows),
        "counts_differ": len({row.count for row in rows}) > 1,
        "guided": any(row.row is not None and row.row.guidance != 1 for row in rows),
        "commands": commands,
        "curves": [(column.title, _merit_curves(records, column)) for column in columns if column.primary],
        "history": _history_curves(records),
        "geometry": _geometry(records),
        "machines": [(labels, dict(items)) for items, labels in machines.items()],
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "nfe_label": nfe_label,
        "duration": duration,
    }


def _merit_curves(records: Sequence[RunRecord], column: Column) -> list[str]:
    """Draw one metric over NFE and over seconds a sample; no curve where fewer than two settings were measured."""
    over_nfe, over_time = [], []
    for index, record in enumerate(records):
        held = [row for row in ordered_rows(record.evaluation) if math.isfinite(row.metrics.get(column.name, math.nan))]
        variants = list(dict.fromkeys((row.method, row.guidance) for row in held))
        for variant, (method, guidance) in enumerate(variants):
            rows = [row for row in held if (row.method, row.guidance) == (method, guidance) and row.nfe > 0]
            values = [row.metrics[column.name] for row in rows]
            label = f"{record.label}, {_setting(method, guidance)}"
            over_nfe.append(Line(label, [row.nfe for row in rows], values, index, variant))
            timed = sorted(
                (row.seconds_per_sample, row.metrics[column.name]) for row in rows if row.seconds_per_sample > 0
            )
            over_time.append(Line(label, [time for time, _ in timed], [value for _, value in timed], index, variant))
    floors = [entry.metrics.get(column.name, math.nan) for entry in references_of(records) if entry.kind == "floor"]
    levels = [Level(f"floor, {number(floor)}", floor) for floor in floors if math.isfinite(floor)]
    log = column.better == "lower"
    curves = []
    for lines, x_label in ((over_nfe, "function evaluations a sample (NFE)"), (over_time, "time a sample")):
        drawn = [line for line in lines if len(line.x)]
        if sum(len(line.x) for line in drawn) > 1:
            timed_axis = lines is over_time
            curves.append(
                scatter_curve(
                    drawn, x_label=x_label, y_label=column.title, log_y=log, levels=levels, seconds=timed_axis
                )
            )
    return curves


def _history_curves(records: Sequence[RunRecord]) -> list[str]:
    curves = []
    for names, title in ((("loss_average", "loss"), "training loss"), (("grad_norm",), "gradient norm")):
        lines = []
        for index, record in enumerate(records):
            name = next((entry for entry in names if any(entry in line for line in record.history)), None)
            points = [
                (line["step"], line[name])
                for line in record.history
                if name and _is_finite(line.get(name)) and _is_finite(line.get("step"))
            ]
            thinned = points[:: max(1, len(points) // HISTORY_POINTS)]
            if len(thinned) > 1:
                lines.append(Line(record.label, [x for x, _ in thinned], [y for _, y in thinned], index))
        if lines:
            curves.append(history_curve(lines, y_label=title))
    return curves


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _geometry(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    lines = []
    for key, title in GEOMETRY.items():
        values = [number(record.figures.get(key, math.nan)) for record in records]
        if any(key in record.figures for record in records):
            lines.append((title, values))
    return lines


def _pictures(records: Sequence[RunRecord], side: int) -> dict[str, Any]:
    """Embed everything that is shown, no picture wider or higher than `side` pixels."""
    strips = []
    for nfe in sorted({row.nfe for record in records for row in record.evaluation.rows if row.strip}):
        strips.append((nfe_label(nfe), [_strip(record, nfe, side) for record in records]))
    shown = [row for record in records for row in record.evaluation.rows if row.strip]
    real = next(
        (
            Picture("real data", _embed(record.folder, reference.strip, side))
            for record in records
            for reference in record.evaluation.references
            if reference.strip
        ),
        None,
    )
    return {
        "strips": strips,
        "view": _view(records),
        "real": real,
        "same_noise": len({row.seed for row in shown}) == 1,
        "previews": [(record.label, pictures) for record in records if (pictures := _previews(record, side))],
    }


def _view(records: Sequence[RunRecord]) -> tuple[str, str] | None:
    """Caption and page of the newest run's view at the largest NFE; None without one, or when it is too long for a report."""
    rows = [row for row in records[-1].evaluation.rows if row.view]
    if not rows:
        return None
    row = max(rows, key=lambda row: row.nfe)
    path = (records[-1].folder / (row.view or "")).resolve()
    inside = path.is_relative_to(records[-1].folder.resolve()) and path.is_file()
    if not inside or path.stat().st_size > SIZE_LIMIT // 4:
        return None
    return _caption(records[-1], row), path.read_text(encoding="utf-8", errors="replace")


def _strip(record: RunRecord, nfe: float, side: int) -> Picture | None:
    """Choose the run's strip at this NFE: unguided before guided, then the method that the run lists first."""
    row = next((row for row in ordered_rows(record.evaluation) if row.nfe == nfe and row.strip), None)
    return None if row is None else Picture(_caption(record, row), _embed(record.folder, row.strip, side))


def _caption(record: RunRecord, row: Row) -> str:
    steps = f"{row.steps} step{'' if row.steps == 1 else 's'}" if row.steps else f"{nfe_label(row.nfe)} NFE"
    setting = _setting(row.method, row.guidance)
    plain = setting if row.steps != row.nfe or row.guidance != 1 else ""
    return f"{record.label}, {steps}" + (f" ({plain})" if plain else "")


def _setting(method: str, guidance: float) -> str:
    return method if guidance == 1 else f"{method}, guidance {guidance:g}"


def _previews(record: RunRecord, side: int) -> list[Picture]:
    """Pick pictures made while training, the first and last among them, closer together early on."""
    found = {int(path.stem.removeprefix("step-")): path for path in record.folder.glob("samples/step-*[0-9].png")}
    steps = sorted(found)
    if len(steps) > PREVIEWS:
        places = {round((len(steps) - 1) * (index / (PREVIEWS - 1)) ** 1.5) for index in range(PREVIEWS)}
        steps = [steps[place] for place in sorted(places)]
    folder = record.folder
    pictures = [
        Picture(f"step {step:,}", _embed(folder, str(found[step].relative_to(folder)), min(side, 640)))
        for step in steps
    ]
    return [picture for picture in pictures if picture.uri]


def _embed(folder: Path, name: str | None, side: int) -> str | None:
    """Encode a picture inside the run folder as a data URI; None when it is missing, elsewhere or not a picture."""
    path = (folder / (name or "")).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            if image.width * image.height > PIXEL_LIMIT:
                return None
            picture = image if image.mode in ("L", "RGB") else image.convert("RGBA" if "A" in image.mode else "RGB")
            picture = _resize(picture, side)
            stream = io.BytesIO()
            picture.save(stream, format="PNG")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None  # Pillow reports a damaged file as any of these
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _resize(picture: Image.Image, side: int) -> Image.Image:
    longest = max(picture.size)
    if longest > side:
        size = (max(1, picture.width * side // longest), max(1, picture.height * side // longest))
        return picture.resize(size, Image.Resampling.BOX)
    factor = max(1, min(PICTURE_WIDTH // picture.width, side // longest))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
