"""What an evaluation leaves behind: rows and references in `evaluation.jsonl`, flat figures in `metrics.json`."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from rectiflow.errors import DataError, StorageError

EVALUATION_FILE = "evaluation.jsonl"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Metric:
    """How a figure is to be read.

    `name` is the key in `Row.metrics` and carries the network it is computed on (`fd_digitsnet`); `better` says whether
    lower, higher or closest-to-one wins; primary metrics are drawn as curves and named in the headline.
    """

    name: str
    title: str
    better: Literal["lower", "higher", "one"]
    primary: bool = False


@dataclass(frozen=True)
class Row:
    """One sampler setting, measured.

    `nfe` is the number of function evaluations a sample as counted by the solver (a mean for adaptive ones), `count` the
    number of samples, `strip` a PNG of samples and `view` an html page of them, relative to the run folder. `tolerance` is what
    rtol and atol of an adaptive sampler were, None for its own.
    """

    method: str
    steps: int
    nfe: float
    guidance: float
    count: int
    seed: int
    metrics: dict[str, float]
    seconds_per_sample: float
    command: str
    strip: str | None = None
    view: str | None = None
    tolerance: float | None = None

    @property
    def key(self) -> tuple[str, int, float, float | None]:
        """What names the setting: a later row with the same key replaces this one."""
        return self.method, self.steps, self.guidance, self.tolerance


@dataclass(frozen=True)
class Reference:
    """The same metrics without a model: real against real (`floor`), or something trivial against real (`baseline`)."""

    kind: Literal["floor", "baseline"]
    description: str
    count: int
    metrics: dict[str, float]
    strip: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names the reference: a later one with the same key replaces this one."""
        return self.kind, self.description


@dataclass(frozen=True)
class Evaluation:
    """Everything known about one run's samples: the newest row of each setting, in order of first appearance."""

    rows: list[Row] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)


def append_header(run: Path, metrics: Iterable[Metric], machine: Mapping[str, Any]) -> None:
    """Record which metrics the rows that follow hold and on which machine they are measured; the newest header wins.

    Raises:
        DataError: the run folder does not exist.
        StorageError: the file cannot be written.
    """
    _append_line(run, {"kind": "header", "metrics": [asdict(metric) for metric in metrics], "machine": dict(machine)})


def append(run: Path, record: Row | Reference) -> None:
    """Add one row or reference to the run's `evaluation.jsonl`, on disk when this returns.

    Raises:
        DataError: the run folder does not exist.
        StorageError: the file cannot be written.
    """
    if isinstance(record, Row):
        _append_line(run, {"kind": "row", **asdict(record)})
    else:
        _append_line(run, {"kind": "reference", "reference": record.kind, **_without(asdict(record), "kind")})


def read_evaluation(run: Path) -> Evaluation:
    """Read the run's `evaluation.jsonl`; without the file the evaluation is empty.

    Raises:
        DataError: a line is not a record (a last line cut short by a kill is left out instead).
    """
    path = run / EVALUATION_FILE
    rows: dict[object, Row] = {}
    references: dict[object, Reference] = {}
    metrics: list[Metric] = []
    machine: dict[str, Any] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            kind = line["kind"]
            if kind == "header":
                metrics = [_build(Metric, entry) for entry in line["metrics"]]
                machine = dict(line["machine"])
            elif kind == "row":
                row = _build(Row, {**line, "metrics": _numbers(line["metrics"])})
                rows[row.key] = row
            elif kind == "reference":
                entry = {**line, "kind": line["reference"], "metrics": _numbers(line["metrics"])}
                reference = _build(Reference, entry)
                references[reference.key] = reference
            else:
                raise ValueError(f"kind {kind!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, record {number}: not an evaluation record ({error}); expected a header, row or reference. "
                "Delete the line, or the file, and evaluate again."
            ) from error
    return Evaluation(list(rows.values()), list(references.values()), metrics, machine)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a missing file is empty and a last line cut short by a kill is left out.

    Raises:
        DataError: another line does not parse, or the file cannot be read.
    """
    try:
        pieces = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check its permissions.") from error
    lines = []
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        line = _parse(piece)
        if line is not None:
            lines.append(line)
        elif number < len(pieces):
            raise DataError(
                f"{path}, line {number}: not a JSON object: {piece[:60]!r}; only the last line may be incomplete. "
                "Delete the line and run the command again."
            )
    return lines


def nfe_label(nfe: float) -> str:
    """Write a number of function evaluations as it stands in keys and tables: `10`, or `10.5` for a mean."""
    return f"{nfe:.0f}" if float(nfe).is_integer() else f"{nfe:.1f}"


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Flatten an evaluation to the keys of `metrics.json`.

    `<metric>.<method>.nfe_<NFE>` for a row (with `.guidance_<w>` after it when w is not 1), `<metric>.floor` and
    `<metric>.baseline` for references.
    """
    flat: dict[str, float] = {}
    for reference in evaluation.references:
        flat.update({f"{name}.{reference.kind}": value for name, value in reference.metrics.items()})
    for row in evaluation.rows:
        suffix = f"{row.method}.nfe_{nfe_label(row.nfe)}" + ("" if row.guidance == 1 else f".guidance_{row.guidance:g}")
        flat.update({f"{name}.{suffix}": value for name, value in row.metrics.items()})
    return flat


def write_metrics(run: Path, values: Mapping[str, float]) -> Path:
    """Merge flat figures into the run's `metrics.json`; other keys stay, and a kill leaves the old file or the new one.

    Raises:
        DataError: the run folder does not exist, or the present file is not a JSON object of numbers.
        StorageError: the file cannot be written.
    """
    _require(run)
    path = run / METRICS_FILE
    merged = {**read_metrics(run), **values}
    text = json.dumps({name: _storable(merged[name]) for name in sorted(merged)}, indent=2, allow_nan=False)
    write_atomically(path, text + "\n")
    return path


def read_metrics(run: Path) -> dict[str, float]:
    """Read the run's `metrics.json`; without the file there are no figures, and null stands for a non-finite one.

    Raises:
        DataError: the file is not a JSON object of numbers.
    """
    path = run / METRICS_FILE
    try:
        return _numbers(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a JSON object of numbers ({error}). Delete it and run `rectiflow evaluate` again."
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file as a whole: a sibling is written and flushed first, so no reader ever sees a part of it.

    Raises:
        StorageError: the file cannot be written; what stood there before is untouched.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as stream:
            temporary = Path(stream.name)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644 & path.parent.stat().st_mode)  # temporary files are born private
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from error


def machine_info() -> dict[str, Any]:
    """Describe this machine and this installation, without importing torch.

    Keys: cpu, cores, load (one-minute average), gpu (None without one), platform, python, torch, rectiflow, commit
    (of the source tree, None outside one; `-dirty` when it has uncommitted changes).
    """
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": _gpu_models(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "rectiflow": _version("rectiflow"),
        "commit": _commit(),
    }


Record = TypeVar("Record", Metric, Row, Reference)


def _build(kind: type[Record], entry: Mapping[str, Any]) -> Record:
    return kind(**{name: entry[name] for name in (item.name for item in fields(kind)) if name in entry})


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): math.nan if value is None else float(value) for name, value in entry.items()}


def _storable(value: Any) -> Any:
    """JSON has no NaN: null takes its place, so that every reader of the file can parse it."""
    if isinstance(value, Mapping):
        return {name: _storable(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_storable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


def _parse(piece: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(piece)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _require(run: Path) -> None:
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder; pass run=<folder of a run>, for example run=runs/images/base.")


def _append_line(run: Path, line: dict[str, Any]) -> None:
    _require(run)
    append_line(run / EVALUATION_FILE, line)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, on disk when this returns; part of a line that a kill left is taken away first.

    Raises:
        StorageError: the file cannot be written.
    """
    text = json_line(line).encode()
    try:
        with path.open("a+b") as stream:
            stream.seek(0)
            tail = stream.read().rpartition(b"\n")[2]
            if tail and _parse(tail) is None:
                stream.truncate(stream.tell() - len(tail))
            elif tail:
                text = b"\n" + text
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _not_written(path, error) from error


def json_line(line: Mapping[str, Any]) -> str:
    """A JSON object on a line of its own; null stands for a number that is not finite."""
    return json.dumps(_storable(line), allow_nan=False) + "\n"


def _not_written(path: Path, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    return StorageError(f"{path}: could not be written ({reason}); free space or choose another folder.")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu_models() -> str | None:
    models = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = path.read_text(encoding="utf-8").splitlines()
        models += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return ", ".join(models) or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Ask git only where it tracks this very file: an installed copy may lie inside somebody else's repository."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).resolve()
    tracked = [git, "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
    describe = [git, "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        subprocess.run(tracked, check=True, capture_output=True, timeout=10)  # noqa: S603  (fixed arguments)
        answer = subprocess.run(describe, check=True, capture_output=True, timeout=10, text=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
