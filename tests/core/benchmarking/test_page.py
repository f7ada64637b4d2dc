"""The page of a study is made from its measurements alone, holds every command, and asks for nothing from outside."""

from __future__ import annotations

import html
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rectiflow.benchmarking.catalogue import PAGES
from rectiflow.benchmarking.domains_layout import layout
from rectiflow.benchmarking.domains_table import by_domain
from rectiflow.benchmarking.layout import Column, Line, Table
from rectiflow.benchmarking.measurement import FILE, Measurement, append_measurement, read_measurements
from rectiflow.benchmarking.page import aligned, write_combined, write_page
from rectiflow.benchmarking.regression import keep_baseline
from rectiflow.cli import main
from rectiflow.errors import ConfigError, DataError
from rectiflow.report_table import number

FD = {("base", 1): 212.0, ("base", 2): 50.0, ("base", 32): 4.0, ("rectified", 1): 6.0, ("rectified", 2): 5.0}
VOID = {"meta", "link", "img", "br", "hr"}


def study(
    domain: str = "images", after: float = 5.0, flows: tuple[str, ...] = ("base", "rectified")
) -> list[Measurement]:
    facts = {
        "metric": "fd",
        "title": "FD <net>",
        "better": "lower",
        "solver": "euler",
        "floor": "real",
        "baseline": "blur",
    }
    ends = {"floor": {"fd": 2.0}, "baseline": {"fd": 52.0}, "count": 64}
    found = []
    for flow in flows:
        where = {"domain": domain, "flow": flow}
        found.append(
            Measurement(
                "domains",
                {**where, "part": "model"},
                {"parameters": 2e6},
                f"run {domain} {flow} 'own'",
                facts=facts,
                **ends,
            )  # type: ignore[arg-type]
        )
        for (role, nfe), value in (FD | {("rectified", 2): after}).items():
            if role == flow:
                figures = {
                    "fd": value,
                    "normalised": (52 - value) / 50,
                    "nfe": float(nfe),
                    "ms": 0.5 * nfe,
                    "network_share": 0.98,
                }
                cell = {**where, "part": "quality", "solver": "euler", "nfe": float(nfe)}
                found.append(Measurement("domains", cell, figures, f"run {domain} {flow} 'euler'", **ends))  # type: ignore[arg-type]
        adaptive = {**where, "part": "quality", "solver": "dopri5", "nfe": 0.0}
        found.append(Measurement("domains", adaptive, {}, f"run {domain} {flow} 'dopri5'", note="spent more than 400"))
        paths = {"straightness": 0.0123, "transport_cost": 80.0}
        found.append(Measurement("domains", {**where, "part": "paths"}, paths, f"run {domain} {flow} cost"))
    return found


def write(folder: Path, measurements: list[Measurement]) -> Path:
    for entry in measurements:
        append_measurement(folder / FILE, entry)
    return folder


class Balance(HTMLParser):
    """Finds a tag that is not closed, and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_holds_every_command_the_verdict_and_no_address_outside(tmp_path: Path) -> None:
    folder = write(tmp_path / "domains", study())
    page = write_page(folder, baselines=tmp_path / "baseline").read_text()
    for entry in read_measurements(folder / FILE):
        assert f"<code>{html.escape(entry.command, quote=False)}</code>".replace("'", "&#39;") in page
    assert "images: FD &lt;net&gt; 5.00 with 2 evaluations after rectification, 4.00 with 32 before" in page
    assert "2\N{NO-BREAK SPACE}% of normalised quality lost: within 10" in page  # (0.96 - 0.94) / 0.96
    assert "images, base, quality, dopri5, 0: spent more than 400" in page
    assert "No baseline is stored" in page
    found = Balance()
    found.feed(page)
    assert found.open == []
    targets = set(re.findall(r'id="([^"]+)"', page))
    for address in found.addresses:
        assert address.startswith("#")
        assert address.removeprefix("#") in targets
    assert "<script" not in page
    assert len(re.findall("<svg", page)) == 2


def test_what_is_lost_is_said() -> None:
    (domain,) = by_domain(study(after=20.0))
    assert domain.verdict is not None
    assert domain.verdict.lost == pytest.approx((0.96 - 0.64) / 0.96)
    assert not domain.verdict.kept
    (line,) = layout(study(after=20.0)).findings
    assert "33 % of normalised quality lost: not within 10 %." in line.replace("\N{NO-BREAK SPACE}", " ")
    (gained,) = layout(study(after=3.0)).findings
    assert "2 % of normalised quality gained: within 10 %." in gained.replace("\N{NO-BREAK SPACE}", " ")
    (alone,) = layout(study(flows=("base",))).findings
    assert alone == "images: not measured both before and after rectification."


def test_combined_page_has_every_study_and_the_comparison(tmp_path: Path) -> None:
    write(tmp_path / "bench" / "domains", study())
    write(tmp_path / "bench" / "domains-quick", study("shapes"))
    baselines = tmp_path / "baseline"
    raised = [
        Measurement("domains", entry.cell, {"normalised": 1.3}, "c", count=64)
        if entry.cell.get("nfe") == 32.0
        else entry
        for entry in study()
    ]
    watched = {"normalised": PAGES["domains"].watched["normalised"]}
    assert keep_baseline(baselines / "domains.json", raised, watched) == 5
    page = write_combined(tmp_path / "bench", baselines=baselines).read_text()
    assert page.count('<section id="domains') == 2
    assert '4 <span class="same">same</span>' in page
    assert '1 <span class="worse">worse</span>' in page
    numbers = [int(number) for number in re.findall(r"<b>Table (\d+)\.</b>", page)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "images" in page
    assert "shapes" in page


def test_report_verb_keeps_a_baseline_and_prints_the_page_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "bench" / "domains", study())
    keep = tmp_path / "kept"
    assert main(["bench", "report", f"out='{tmp_path}'", f"keep='{keep}'", f"baseline='{keep}'"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"all studies: {tmp_path / 'bench' / 'report.html'}"
    assert (keep / "domains.json").is_file()
    assert '12 <span class="same">same</span>.' in (tmp_path / "bench" / "report.html").read_text()


def test_numbers_are_aligned_at_their_points() -> None:
    values = ("12.5", "3", "0.125", "2.1e-5", number(math.nan))
    table = Table("", [Column("name", "text"), Column("value")], [Line(["a", value]) for value in values])
    texts = [cells[1] for cells in aligned(table)]
    widths = {len(text) - text.find(".") for text in texts[:3] if "." in text}
    assert widths == {4}
    assert texts[1].startswith("3")
    assert len(texts[1]) == 1 + 1 + 3
    assert texts[3:] == list(values[3:])


def test_nothing_measured_and_unknown_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no study"):
        write_combined(tmp_path)
    with pytest.raises(ConfigError, match="holds no measurements"):
        write_page(tmp_path)
    write(tmp_path, [Measurement("cooking", {"a": 1.0}, {}, "c")])
    with pytest.raises(DataError, match="study 'cooking' is unknown"):
        write_page(tmp_path)
