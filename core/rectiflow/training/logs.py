"""What a run tells: metrics.jsonl, TensorBoard and the terminal, from the first process only."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rectiflow.training.checkpoint import storage_error

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Figures = Mapping[str, float]


class MetricsFile:
    """metrics.jsonl: one JSON object a line, each with its `step`; on a resume, later lines are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in self._lines() if _step_of(line) <= step] if step else []
        staged = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            staged.write_text("".join(line + "\n" for line in kept))
            os.replace(staged, path)
            self._file = path.open("a")
        except OSError as error:
            raise storage_error(path, error, sum(len(line) + 1 for line in kept)) from error

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line and hand it to the operating system; what is not finite becomes null.

        Raises:
            StorageError: the line could not be written.
        """
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        line = json.dumps(plain, allow_nan=False) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise storage_error(self.path, error, len(line)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(line: str) -> float:
    """Step of a line; infinite for the half-written one that a kill can leave at the end."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Terminal:
    """A progress bar on a terminal; elsewhere one plain line for each logging step."""

    def __init__(self, steps: int, step: int) -> None:
        self.steps = steps
        self._started = time.perf_counter()
        self._first = step
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            self._task = self._bar.add_task("train", total=steps, completed=step, text="")
            self._bar.start()

    def advance(self, step: int, loss: float, norm: float) -> None:
        """Move the bar; `loss` is its running average."""
        if self._bar is not None:
            text = f"loss {loss:.4f}  |grad| {norm:.3f}  {self._rate(step):.1f} it/s"
            self._bar.update(self._task, completed=step, text=text)

    def line(self, step: int, loss: float, norm: float) -> None:
        """Print the step's line where there is no bar."""
        if self._bar is None:
            rate = self._rate(step)
            left = (self.steps - step) / rate if rate > 0 else 0.0
            text = f"step {step}/{self.steps}  loss {loss:.4f}  |grad| {norm:.3f}  {rate:.1f} it/s  {left:.0f} s left"
            print(text, flush=True)

    def _rate(self, step: int) -> float:
        return (step - self._first) / max(time.perf_counter() - self._started, 1e-9)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class Logs:
    """All of a run's outputs, as a context; only the first process makes one. Without a folder it is the terminal alone."""

    def __init__(self, folder: Path | None, steps: int, step: int, tensorboard: bool) -> None:
        self._folder = folder
        self._file = MetricsFile(folder / "metrics.jsonl", step) if folder else None
        self._board = _summary_writer(folder / "tensorboard", step) if folder and tensorboard else None
        self._terminal = Terminal(steps, step)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal.close()
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def advance(self, step: int, loss: float, norm: float) -> None:
        """Show where the run stands."""
        self._terminal.advance(step, loss, norm)

    def figures(self, step: int, figures: Figures, *, loss: float, norm: float) -> None:
        """Log a step's figures everywhere; `loss` (running average) and `norm` are for the terminal."""
        self._terminal.line(step, loss, norm)
        self._record(step, figures, prefix="train")

    def preview(self, step: int, figures: Figures) -> None:
        """Log the figures of a preview."""
        if figures:
            self._record(step, {f"preview/{name}": value for name, value in figures.items()}, prefix="")
            print("  ".join([f"preview at step {step}"] + [f"{k} {v:.4g}" for k, v in figures.items()]), flush=True)

    def event(self, step: int, record: Mapping[str, object]) -> None:
        """Log something that happened, to metrics.jsonl alone."""
        if self._file:
            self._file.write({"step": step, **record})

    def _record(self, step: int, figures: Figures, prefix: str) -> None:
        if self._file:
            self._file.write({"step": step, **figures})
        if self._board and self._folder:
            try:
                for name, value in figures.items():
                    self._board.add_scalar(f"{prefix}/{name}".lstrip("/"), value, step)
                self._board.flush()
            except OSError as error:
                raise storage_error(self._folder / "tensorboard", error, 0) from error


def _summary_writer(folder: Path, step: int) -> SummaryWriter:
    # Imported here: it costs a second, and a run without TensorBoard need not pay it.
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=step + 1 if folder.exists() else None)
    except OSError as error:
        raise storage_error(folder, error, 0) from error
