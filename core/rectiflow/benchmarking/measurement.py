"""The record of every benchmark: one cell, what was measured in it, and by which command on which machine. Free of torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rectiflow.errors import DataError, StorageError
from rectiflow.records import append_line, json_line, machine_info, read_lines, write_atomically

FILE = "measurements.jsonl"


@dataclass(frozen=True)
class Measurement:
    """One cell of a study.

    Attributes:
        study: what `rectiflow bench` was asked for.
        cell: what was varied, name -> value; it names the cell, and a later measurement of it replaces this one.
        figures: what was found, name -> value; NaN where there is none.
        command: that measures this cell alone.
        intervals: low and high end of a figure, 95 % unless `note` says otherwise.
        floor: the best that the same figures can be expected to be: real data, or what was asked for.
        baseline: what something trivial gets.
        count: samples, or repeats.
        seed: of all chance in it.
        seconds: that the measuring took.
        digest: of what it depends on beside its name, a trained model for instance; another one makes it out of date.
        facts: words that belong to the figures, name -> text: a metric's title, what the floor is, a path.
        note: a sentence for the reader, for instance why there is no figure.
        load: one-minute load of the machine when it was measured.
        machine: processor, versions and commit, as `rectiflow.records.machine_info` has them.
    """

    study: str
    cell: dict[str, str | float]
    figures: dict[str, float]
    command: str
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    count: int = 0
    seed: int = 0
    seconds: float = 0.0
    digest: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    note: str = ""
    load: float | None = None
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[str, str | float], ...]:
        """The cell, to look it up by."""
        return key_of(self.cell)

    @property
    def label(self) -> str:
        """The cell in words."""
        return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self.cell.values())


def key_of(cell: Mapping[str, str | float]) -> tuple[tuple[str, str | float], ...]:
    """A cell as a key of a dict, whatever the order of its names."""
    return tuple(sorted(cell.items()))


def append_measurement(path: Path, measurement: Measurement) -> Measurement:
    """Add one measurement to a file of JSON lines, on disk when this returns, and return it with this machine and its load.

    The machine is a line of its own, written when the file has not got it yet; a measurement names it by its digest.

    Raises:
        DataError: the file holds something else.
        StorageError: it cannot be written.
    """
    machine = {**machine_info(), **measurement.machine}
    load = machine.pop("load", None)
    identity = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:12]
    entry = {"kind": "measurement", **asdict(measurement), "machine": identity, "load": load}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be made ({error.strerror or error}); choose another out=") from error
    if not any(line.get("kind") == "machine" and line.get("id") == identity for line in read_lines(path)):
        append_line(path, {"kind": "machine", "id": identity, **machine})
    append_line(path, entry)
    return _build(entry, machine)


def read_measurements(path: Path) -> list[Measurement]:
    """The newest measurement of each cell, in order of first appearance; none when there is no file.

    Raises:
        DataError: a line that is neither a machine nor a measurement.
    """
    machines: dict[str, dict[str, Any]] = {}
    found: dict[object, Measurement] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            if line["kind"] == "machine":
                machines[line["id"]] = {name: value for name, value in line.items() if name not in ("kind", "id")}
            elif line["kind"] == "measurement":
                measurement = _build(line, machines[line["machine"]])
                found[measurement.key] = measurement
            else:
                raise ValueError(f"kind {line['kind']!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}, record {number}: not a measurement ({error}); delete the line, or the file, and run the study again"
            ) from error
    return list(found.values())


def write_measurements(path: Path, measurements: Iterable[Measurement]) -> None:
    """Put measurements, each with the machine it brings, into a new file.

    Raises:
        StorageError: it cannot be written.
    """
    lines: list[dict[str, Any]] = []
    known: set[str] = set()
    for measurement in measurements:
        identity = hashlib.sha256(json.dumps(measurement.machine, sort_keys=True).encode()).hexdigest()[:12]
        if identity not in known:
            known.add(identity)
            lines.append({"kind": "machine", "id": identity, **measurement.machine})
        lines.append({"kind": "measurement", **asdict(measurement), "machine": identity})
    write_atomically(path, "".join(map(json_line, lines)))


def up_to_date(measurements: Iterable[Measurement], cell: Mapping[str, str | float], digest: str) -> Measurement | None:
    """The measurement of a cell that was made with the same inputs; None when it is to be made."""
    key = key_of(cell)
    return next((entry for entry in measurements if entry.key == key and entry.digest == digest), None)


def _build(line: Mapping[str, Any], machine: Mapping[str, Any]) -> Measurement:
    values = {item.name: line[item.name] for item in fields(Measurement) if item.name in line}
    for name in ("figures", "floor", "baseline"):
        values[name] = {key: math.nan if value is None else float(value) for key, value in values.get(name, {}).items()}
    values["intervals"] = {key: (float(low), float(high)) for key, (low, high) in values.get("intervals", {}).items()}
    return Measurement(**{**values, "machine": dict(machine)})
