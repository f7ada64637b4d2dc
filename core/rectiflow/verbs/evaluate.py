"""`rectiflow evaluate`: figures of a run for each sampler, from the same noise, beside the noise floor; then its report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from rectiflow.batch import Cond, State, batch_size, map_state
from rectiflow.conditions import take
from rectiflow.diagnostics import straightness_and_ends
from rectiflow.domain import DomainSpec
from rectiflow.drawing import Drawn, carry, draw_sources, move
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.records import (
    Metric,
    Reference,
    Row,
    append,
    append_header,
    flat_metrics,
    machine_info,
    read_evaluation,
    write_atomically,
    write_metrics,
)
from rectiflow.report import write_report
from rectiflow.runs import lineage, read_config
from rectiflow.schedules import exponentials, scheduled
from rectiflow.solvers.catalogue import ADAPTIVE
from rectiflow.trained import Trained, open_run
from rectiflow.verbs.boss import check_method, walk

STRAIGHTNESS_STEPS = 50
TABLE_WIDTH = 170


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Measure, print the table, write evaluation.jsonl, metrics.json and report.html, and return the run's folder.

    Raises:
        ConfigError: a bad run, sampler or count.
    """
    samplers = [parse_sampler(text) for text in config.samplers]
    if config.paths < 1:
        raise ConfigError(f"paths={config.paths} is not allowed: it must be at least 1")
    if config.count < 2 or config.batch < 1:
        raise ConfigError(f"count={config.count}, batch={config.batch}: count must be at least 2 and batch at least 1")
    trained = open_run(spec, Path(config.run), config.weights)
    domain, folder = trained.domain, trained.folder
    flow = scheduled(trained.flow, exponentials(config.exponential))
    append_header(folder, domain.metrics, machine_info())
    references = domain.references(config.count, config.seed)
    for reference in references:
        append(folder, reference)
    generator = torch.Generator().manual_seed(config.seed)
    strip_count, strip_cond = domain.picture_conditions(generator)
    strip_x0 = draw_sources(domain, flow, strip_cond, strip_count, generator)
    cond = domain.conditions(config.count, generator)
    x0 = draw_sources(domain, flow, cond, config.count, generator)
    settings: dict[str, Any] = {
        "guidance": config.guidance,
        "batch": config.batch,
        "device": trained.device,
        "seed": config.seed,
    }
    rows = []
    for sampler in samplers:
        method, times = walk(trained, flow, sampler.method, sampler.steps, config.guidance)
        limits = sampler.tolerances(config.max_nfe)
        how = {"method": method, "steps": sampler.steps, "times": times, "tolerances": limits, **settings}
        drawn, figures = domain.measure(partial(_solve, flow, how), x0, cond, config.seed)
        strip = carry(flow, strip_x0, strip_cond, **how)
        picture = Path("samples") / f"strip-{sampler}.png"
        (folder / "samples").mkdir(exist_ok=True)
        domain.picture(strip.x, strip_cond).save(folder / picture)
        page = domain.view(strip.x, strip_cond)
        if page is not None:
            write_atomically(folder / picture.with_suffix(".html"), page)
        row = Row(
            method=sampler.method,
            steps=sampler.steps,
            nfe=drawn.nfe,
            guidance=config.guidance,
            count=config.count,
            seed=config.seed,
            metrics=figures,
            seconds_per_sample=drawn.seconds / config.count,
            command=_command(spec, config, sampler),
            strip=str(picture),
            view=None if page is None else str(picture.with_suffix(".html")),
            tolerance=sampler.tolerance,
        )
        append(folder, row)
        rows.append(row)
        _progress(row, domain.metrics)
    _print_table(rows, references, domain.metrics)
    write_metrics(folder, flat_metrics(read_evaluation(folder)))
    write_metrics(folder, geometry(trained, x0, cond, config.guidance, config.paths))
    path = report(spec, folder)
    print(f"figures: {folder / 'metrics.json'}\nreport: {path}")
    return folder


def _solve(flow: Flow, how: dict[str, Any], x0: State, cond: Cond) -> Drawn:
    return carry(flow, x0, cond, **how)


class Sampler(NamedTuple):
    """A method with its steps, or an adaptive one (0 steps) with what rtol and atol both are, None for its own."""

    method: str
    steps: int
    tolerance: float | None = None

    def __str__(self) -> str:
        if self.steps:
            return f"{self.method}-{self.steps}"
        return self.method if self.tolerance is None else f"{self.method}-{self.tolerance:g}"

    def tolerances(self, max_nfe: int | None) -> dict[str, float]:
        """What an adaptive method is given beside the state; nothing for another."""
        both = {} if self.tolerance is None else {"rtol": self.tolerance, "atol": self.tolerance}
        return both | ({} if self.steps or max_nfe is None else {"max_nfe": max_nfe})


def parse_sampler(text: str) -> Sampler:
    """A sampler written method-steps; an adaptive method stands alone or with a tolerance, dopri5-1e-3.

    Raises:
        ConfigError: another form, an unknown method, no steps, or a tolerance that is not a number above 0.
    """
    for method in ADAPTIVE:
        if text == method:
            return Sampler(method, 0)
        if text.startswith(f"{method}-"):
            return Sampler(method, 0, _tolerance(text, text.removeprefix(f"{method}-")))
    match = re.fullmatch(r"(.+)-(\d+)", text)
    if match is None or int(match.group(2)) < 1:
        raise ConfigError(
            f"sampler {text!r} is not of the form method-steps with at least one step, for example euler-10"
        )
    check_method(match.group(1))
    return Sampler(match.group(1), int(match.group(2)))


def _tolerance(sampler: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ConfigError(
            f"sampler {sampler!r} chooses its own steps; what may follow it is a tolerance between 0 and 1, for example "
            f"{sampler.removesuffix(f'-{text}')}-1e-3"
        )
    return value


def report(spec: DomainSpec, folder: Path) -> Path:
    """Write the run's report, together with the runs it was made from."""
    runs = lineage(folder)
    labels = ["base flow", *(_label(spec, run, number) for number, run in enumerate(runs[1:], start=1))]
    if len(runs) == 1:
        labels = [folder.name]
    return write_report(
        runs,
        folder / "report.html",
        title=f"rectiflow · {spec.name} · {folder.name}",
        summary=spec.summary,
        labels=labels,
    )


def _label(spec: DomainSpec, run: Path, number: int) -> str:
    """What a run from another is: its name if a verb of the domain made it, a student by its method, or a rectified flow."""
    config = read_config(run)
    distill = config.get("distill")
    if any(verb in config for verb in spec.verbs):
        return run.name
    if distill:
        return f"student by {str(distill.method['_target_']).rpartition('.')[2]}"
    return "rectified flow" if number == 1 else f"{number}-rectified flow"


def _command(spec: DomainSpec, config: DictConfig, sampler: Sampler) -> str:
    extra = "" if config.guidance == 1 else f" guidance={config.guidance:g}"
    extra += "" if sampler.steps or config.max_nfe is None else f" max_nfe={config.max_nfe}"
    extra += "".join(f" exponential.{name}={rate:g}" for name, rate in config.exponential.items())
    return (
        f"rectiflow evaluate {spec.name} run={config.run} 'samplers=[{sampler}]' "
        f"count={config.count} seed={config.seed}{extra}"
    )


def geometry(
    trained: Trained, x0: State, cond: dict[str, torch.Tensor], guidance: float, count: int
) -> dict[str, float]:
    """Straightness (relative) and transport cost of some of the flow's own trajectories."""
    rows = torch.arange(min(count, batch_size(x0)))
    few = move(map_state(lambda part: part[rows], x0), trained.device)
    few_cond = move(take(cond, rows), trained.device)
    flow = trained.flow
    bent, ends = straightness_and_ends(
        flow, few, steps=STRAIGHTNESS_STEPS, cond=few_cond, guidance=guidance, relative=True
    )
    cost = flow.space.distance(few, ends).square().mean()
    return {"straightness": float(bent), "transport_cost": float(cost)}


def _progress(row: Row, metrics: Sequence[Metric]) -> None:
    primary = next((metric for metric in metrics if metric.primary), None)
    figure = f" {primary.title} {row.metrics[primary.name]:.3g}" if primary and primary.name in row.metrics else ""
    steps = f" {row.steps} steps" if row.steps else ""
    print(f"{Sampler(row.method, 0, row.tolerance)}{steps}, {row.nfe:g} evaluations:{figure}", flush=True)


def _print_table(rows: list[Row], references: list[Reference], metrics: Sequence[Metric]) -> None:
    table = Table(title=f"n = {rows[0].count}", box=None, padding=(0, 1))
    for column in ("sampler", "NFE", "ms/sample", *(metric.title for metric in metrics)):
        table.add_column(column, justify="left" if column == "sampler" else "right", no_wrap=True)

    def cells(values: dict[str, float]) -> list[str]:
        return [f"{values[metric.name]:.3g}" if metric.name in values else "" for metric in metrics]

    for reference in references:
        table.add_row(reference.kind, "", "", *cells(reference.metrics), style="dim")
    for row in rows:
        table.add_row(
            str(Sampler(row.method, 0, row.tolerance)),
            f"{row.nfe:g}",
            f"{1000 * row.seconds_per_sample:.2f}",
            *cells(row.metrics),
        )
    console = Console()
    # A pipe or a narrow window gets long lines rather than figures cut to a digit.
    (console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)).print(table)
