"""Records of a domain's study of few-step students, beside those of the core's studies. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rectiflow.benchmarking.catalogue import STUDENTS
from rectiflow.benchmarking.measurement import FILE, Measurement, append_measurement
from rectiflow.study import Study
from rectiflow.study_report import Result

TITLE = "metric "
"""What stands before a metric's name where a measurement's facts hold its title."""


def record_students(folder: Path, domain: str, study: Study, results: Sequence[Result], *, count: int) -> None:
    """Add each row of a study to the measurements in a folder, from which `rectiflow bench report` makes its page.

    Args:
        folder: of the study among the others, out/bench/<name>.
        domain: whose study it is.
        study: its metrics, and the row that one evaluation is compared with.
        results: the rows.
        count: samples of each.

    Raises:
        DataError: the measurements that are there are damaged.
        StorageError: they cannot be written.
    """
    drawn = next(iter(study.metrics))
    bar = next((result for result in results if (result.entry, result.sampler) == study.bar), None)
    for result in results:
        figures = {
            **{name: result.metrics[name] for name in study.metrics if name in result.metrics},
            "nfe": result.nfe,
            "milliseconds": result.milliseconds,
            "parameters": float(result.parameters),
            "training_seconds": result.training_seconds,
            "teacher_evaluations": result.teacher_evaluations,
        }
        if bar is not None:
            figures["to_bar"] = result.metrics[drawn] / bar.metrics[drawn]
        facts = {"title": result.title, **{TITLE + name: title for name, title in study.metrics.items()}}
        if result is bar:
            facts["bar"] = "yes"
        cell: dict[str, str | float] = {"domain": domain, "entry": result.entry, "sampler": result.sampler}
        append_measurement(
            folder / FILE, Measurement(STUDENTS, cell, figures, result.command, count=count, facts=facts)
        )
