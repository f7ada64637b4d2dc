"""The measurements of the study of domains, looked up by domain and flow; what its page and the README's table are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from rectiflow.benchmarking.measurement import Measurement

FEW, MANY = 2, 32
"""Evaluations of the rectified flow, and of the base flow that it is held against."""
ALLOWED = 0.1
"""The share of normalised quality that may be lost between them."""


@dataclass(frozen=True)
class Verdict:
    """The rectified flow at `few` evaluations beside the base flow at `many`, by the run's own solver.

    `lost` is the share of normalised quality that is lost, negative for a gain; `kept` says whether it is small enough.
    """

    few: float
    many: float
    before: Measurement
    after: Measurement
    lost: float

    @property
    def kept(self) -> bool:
        """Whether at most a tenth is lost."""
        return self.lost <= ALLOWED


@dataclass(frozen=True)
class DomainResults:
    """Everything that was measured of one domain."""

    name: str
    measurements: Sequence[Measurement]

    @cached_property
    def model(self) -> Measurement | None:
        """What the base flow is, or the rectified one where that is all there is."""
        return self.part("model", "base") or self.part("model", "rectified")

    @property
    def metric(self) -> str:
        """Name of the metric that stands for quality."""
        return self._fact("metric")

    @property
    def title(self) -> str:
        """How it is called."""
        return self._fact("title")

    @property
    def better(self) -> Literal["lower", "higher", "one"]:
        """Which way it is better."""
        found = self._fact("better")
        return "lower" if found == "lower" else "one" if found == "one" else "higher"

    @property
    def floor(self) -> float:
        """The metric of real data, or of what was asked for."""
        return self.model.floor.get(self.metric, math.nan) if self.model else math.nan

    @property
    def baseline(self) -> float:
        """The metric of something trivial."""
        return self.model.baseline.get(self.metric, math.nan) if self.model else math.nan

    def own(self, flow: str) -> str:
        """The solver that a run samples with."""
        model = self.part("model", flow)
        return model.facts.get("solver", "euler") if model else "euler"

    def run(self, flow: str) -> str:
        """What the run is called: base and rectified, or by what the domain's own demo makes."""
        model = self.part("model", flow)
        return Path(model.facts.get("run", flow)).name if model else flow

    def part(self, part: str, flow: str) -> Measurement | None:
        """The measurement of a cost, or of the model."""
        cells = ((entry, entry.cell) for entry in self.measurements)
        return next((e for e, cell in cells if cell.get("part") == part and cell.get("flow") == flow), None)

    def line(self, flow: str, solver: str) -> list[Measurement]:
        """What a solver reached, by evaluations."""
        found = [
            entry
            for entry in self.measurements
            if (entry.cell.get("part"), entry.cell.get("flow"), entry.cell.get("solver")) == ("quality", flow, solver)
            and entry.figures
        ]
        return sorted(found, key=lambda entry: entry.figures["nfe"])

    def cell(self, flow: str, solver: str, nfe: float) -> Measurement | None:
        """What a solver reached with so many evaluations."""
        return next((entry for entry in self.line(flow, solver) if entry.cell["nfe"] == nfe), None)

    def own_cell(self, flow: str, nfe: float) -> Measurement | None:
        """What the run's own solver reached with so many evaluations; Euler's method, where it cannot have so many."""
        return self.cell(flow, self.own(flow), nfe) or self.cell(flow, "euler", nfe)

    @property
    def solvers(self) -> list[str]:
        """Those that were measured, in that order."""
        cells = (entry.cell for entry in self.measurements)
        return list(dict.fromkeys(str(cell["solver"]) for cell in cells if cell.get("part") == "quality"))

    @cached_property
    def verdict(self) -> Verdict | None:
        """Whether two evaluations after rectification do what 32 do before it; at most as many as were measured."""
        before = [entry for entry in self.line("base", self.own("base")) if 0 < float(entry.cell["nfe"]) <= MANY]
        after = self.cell("rectified", self.own("rectified"), FEW)
        if not before or after is None:
            return None
        first, second = before[-1].figures["normalised"], after.figures["normalised"]
        lost = (first - second) / first if first > 0 else math.nan
        return Verdict(FEW, float(before[-1].cell["nfe"]), before[-1], after, lost)

    def best(self, flow: str) -> Measurement | None:
        """The best that a flow reached with at most `MANY` evaluations, by whatever solver; of equals, the cheapest."""
        cells = [entry for solver in self.solvers for entry in self.line(flow, solver)]
        held = [e for e in cells if e.figures["nfe"] <= MANY and math.isfinite(e.figures["normalised"])]
        return max(held, key=lambda e: (e.figures["normalised"], -e.figures["nfe"]), default=None)

    @property
    def notes(self) -> list[str]:
        """What could not be measured, and why."""
        return [f"{entry.label}: {entry.note}" for entry in self.measurements if entry.note]

    def _fact(self, name: str) -> str:
        return self.model.facts.get(name, "") if self.model else ""


def by_domain(measurements: Sequence[Measurement]) -> list[DomainResults]:
    """The measurements sorted out; domains in order of name."""
    names = sorted({str(entry.cell["domain"]) for entry in measurements})
    return [DomainResults(name, [entry for entry in measurements if entry.cell["domain"] == name]) for name in names]
