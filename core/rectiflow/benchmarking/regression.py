"""A stored baseline of a study's watched figures, and what became better or worse since. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rectiflow.benchmarking.layout import Watch
from rectiflow.benchmarking.measurement import Measurement, key_of
from rectiflow.errors import DataError, StorageError
from rectiflow.records import write_atomically

Verdict = Literal["better", "same", "worse", "gone"]


@dataclass(frozen=True)
class Change:
    """A watched figure then and now; `gone` when the cell was measured with other samples or not at all."""

    label: str
    figure: str
    before: float
    after: float
    verdict: Verdict


def keep_baseline(path: Path, measurements: Sequence[Measurement], watched: Mapping[str, Watch]) -> int:
    """Write the watched figures of a study, to be compared with later, and return how many there are.

    Raises:
        StorageError: the file cannot be written.
    """
    entries = [
        {"cell": entry.cell, "count": entry.count, "figure": name, "value": entry.figures[name]}
        for entry in measurements
        for name in watched
        if math.isfinite(entry.figures.get(name, math.nan))
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be made ({error.strerror or error}); choose another keep=") from error
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    write_atomically(path, f"[\n{lines}\n]\n")
    return len(entries)


def compare(path: Path, measurements: Sequence[Measurement], watched: Mapping[str, Watch]) -> list[Change]:
    """What became of each figure of a stored baseline; none without the file.

    Raises:
        DataError: the file is not a baseline.
    """
    if not path.is_file():
        return []
    present = {entry.key: entry for entry in measurements}
    changes = []
    try:
        for stored in json.loads(path.read_text(encoding="utf-8")):
            name, value = stored["figure"], float(stored["value"])
            if name not in watched:
                continue
            entry = present.get(key_of(stored["cell"]))
            comparable = entry is not None and entry.count == stored["count"]
            now = entry.figures.get(name, math.nan) if entry is not None and comparable else math.nan
            label = ", ".join(map(_text, stored["cell"].values()))
            changes.append(Change(label, name, value, now, verdict(watched[name], value, now)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a baseline ({error}); write it again by `rectiflow bench report keep=…`"
        ) from error
    return changes


def verdict(watch: Watch, before: float, after: float) -> Verdict:
    """Better or worse when the change is larger than what the watch allows, else the same; gone without a present value."""
    if not math.isfinite(after):
        return "gone"
    gain = after - before if watch.better == "higher" else before - after
    allowed = watch.absolute + watch.relative * abs(before)
    if abs(gain) <= allowed:
        return "same"
    return "better" if gain > 0 else "worse"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
