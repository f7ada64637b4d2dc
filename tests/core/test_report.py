"""The report: everything in one file, nothing from outside, the right figures marked, gaps said and not hidden."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rectiflow.errors import ConfigError, DataError
from rectiflow.records import Metric, Reference, Row, append, append_header, read_evaluation, write_metrics
from rectiflow.report import SIZE_LIMIT, write_report
from rectiflow.report_figures import Line, duration, history_curve, scatter_curve
from rectiflow.report_table import number

METRICS = [
    Metric("swd", "Sliced Wasserstein", "lower"),
    Metric("fd_digitsnet", "Fréchet distance", "lower", primary=True),
    Metric("accuracy", "Accuracy", "higher"),
    Metric("diversity", "Diversity", "one"),
]
BASE = {
    1: (0.2, 152.3, 0.70, 0.41),
    2: (0.1, 61.0, 0.88, 0.77),
    4: (0.03, 17.2, 0.96, 0.95),
    10: (0.015, 5.94, 0.98, 1.2),
}
STUDENT = {1: (0.014, 6.13, 0.985, 0.97), 2: (0.013, 5.91, 0.99, 0.98)}


class Page(HTMLParser):
    """The parts of a page that a test asks for: tags with attributes, table rows, text, embedded pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.rows: list[list[str]] = []
        self.best: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        tag, attributes = self.tags[-1]
        if self.rows and tag in ("td", "a"):
            self.rows[-1][-1] += data.strip()
        if tag == "td" and attributes.get("class") == "best" and data.strip():
            self.best.append(data.strip())

    def images(self) -> list[tuple[str, Image.Image]]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                kind, _, data = str(attributes["src"]).partition(",")
                assert kind == "data:image/png;base64"
                found.append((str(attributes["alt"]), Image.open(io.BytesIO(base64.b64decode(data)))))
        return found


def picture(path: Path, shade: int, size: tuple[int, int] = (89, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)


def make_run(folder: Path, settings: dict[int, tuple[float, ...]], *, strips: bool = True) -> Path:
    folder.mkdir(parents=True)
    append_header(folder, METRICS, {"cpu": "model 9", "cores": 2, "gpu": None, "commit": "abc123"})
    names = [metric.name for metric in METRICS]
    append(
        folder, Reference("floor", "real against real", 357, dict(zip(names, (0.011, 4.1, 0.985, 1.0), strict=True)))
    )
    append(
        folder, Reference("baseline", "noise against real", 357, dict(zip(names, (0.4, 682.0, 0.1, 3.2), strict=True)))
    )
    for steps, values in settings.items():
        strip = f"samples/euler-{steps}.png"
        if strips:
            picture(folder / strip, 10 * steps)
        figures = dict(zip(names, values, strict=True))
        command = f"rectiflow evaluate images run=runs/{folder.name} steps={steps}"
        append(folder, Row("euler", steps, float(steps), 1.0, 1440, 0, figures, 2e-4 * steps, command, strip))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / "base", BASE), make_run(tmp_path / "student", STUDENT)]


def render(runs: list[Path], **options: Any) -> Page:
    return Page(write_report(runs, runs[0].parent / "report.html", **{"title": "Digits", **options}))


def test_nothing_is_fetched_and_nothing_runs(runs: list[Path]) -> None:
    page = render(runs)
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", page.source)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    for _, attributes in page.tags:
        assert str(attributes.get("src", "data:")).startswith("data:")
        for name in ("href", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith("#")
    assert len(page.source.encode()) < SIZE_LIMIT


def test_links_lead_somewhere_and_names_are_unique(runs: list[Path]) -> None:
    page = render(runs)
    names = [
        str(attributes["id"]) for tag, attributes in page.tags if "id" in attributes and tag in ("li", "section", "g")
    ]
    assert len(names) == len(set(names))
    links = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"command-{index}" for index in range(1, 7)} <= set(names)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$\\frac{1}{", '_hidden & "quoted"', "100% {{ 7 * 7 }}"])
def test_names_are_text_wherever_they_appear(runs: list[Path], name: str) -> None:
    (runs[0] / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1 / (1 + i)}) + "\n" for i in range(9))
    )
    (runs[0] / "config.yaml").write_text(f"name: {name}\n")
    append(runs[0], Reference("floor", name, 10, {"swd": 0.1}))
    page = render(runs, title=name, summary=name, labels=[name, "student"])
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(name) >= 8  # title twice, summary, finding or table, captions, reference, configuration
    legends = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", page.source)]
    assert f"{name}, euler" in [text.lstrip("\N{ZERO WIDTH SPACE}") for text in legends]


def test_the_table_holds_the_figures_with_primary_metrics_first(runs: list[Path]) -> None:
    rows = [row for row in render(runs, labels=["base flow", "rectified flow"]).rows if len(row) > 5]
    floor, baseline, *settings = rows[1:]
    assert floor == ["Noise floor", "4.10", "0.0110", "0.985", "1.00", "357", "", ""]
    assert baseline[:2] == ["Baseline", "682"]
    assert settings[0] == ["euler", "1", "1", "152", "0.200", "0.700", "0.410", "1,440", "200 µs", "1"]
    assert settings[3] == ["euler", "10", "10", "5.94", "0.0150", "0.980", "1.20", "1,440", "2.0 ms", "4"]
    assert settings[4][:4] == ["euler", "1", "1", "6.13"]
    assert len(settings) == len(BASE) + len(STUDENT)


def test_the_best_value_is_marked_in_each_direction_and_references_do_not_compete(runs: list[Path]) -> None:
    # lower: 5.91 and not the floor's 4.10; lower: 0.0130; higher: 0.990; closest to one: 0.98 and not the largest, 1.2
    assert sorted(render(runs).best) == sorted(["5.91", "0.0130", "0.990", "0.980"])


def test_a_metric_without_a_declared_direction_is_shown_and_not_judged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for steps in (1, 2):
        append(run, Row("euler", steps, steps, 1.0, 10, 0, {"mystery": float(steps)}, 0.1, "c"))
    page = render([run])
    assert "mystery" in page.text
    assert page.best == []


def test_figures_beside_the_declared_ones_stay_out_of_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "base", BASE)
    before = render([run])
    figures = {"swd": 0.01, "fd_digitsnet": 9.0, "accuracy": 0.9, "diversity": 1.0, "mystery": 3.0}
    append(run, Row("euler", 4, 4.0, 1.0, 1440, 0, figures, 8e-4, "rectiflow evaluate images steps=4"))
    after = render([run])
    assert "mystery" not in after.text
    assert after.rows[0] == before.rows[0]


def test_the_finding_compares_the_last_run_with_the_first_at_equal_cost(runs: list[Path]) -> None:
    page = render(runs, labels=["base flow", "rectified flow"])
    assert (
        "Rectified flow reaches Fréchet distance 6.13 with 1 function evaluation; base flow has 152 there "
        "and needs 10 for a value as good (5.94)." in page.text
    )


def test_the_finding_does_not_flatter(tmp_path: Path) -> None:
    worse = {1: (0.2, 200.0, 0.7, 0.4)}
    page = render([make_run(tmp_path / "base", BASE), make_run(tmp_path / "worse", worse)])
    assert "Worse reaches Fréchet distance 200 with 1 function evaluation; base has 152 there" in page.text
    assert "which is as good or better" in page.text


def test_the_finding_says_when_the_base_never_gets_there(tmp_path: Path) -> None:
    page = render([make_run(tmp_path / "base", BASE), make_run(tmp_path / "student", {1: (0.1, 3.0, 0.9, 1.0)})])
    assert "base has 152 there and nowhere, at any setting measured, a value as good." in page.text


def test_the_finding_names_the_cheapest_setting_that_is_as_good(tmp_path: Path) -> None:
    base = {1: (0.2, 50.0, 0.7, 0.4), 4: (0.1, 6.0, 0.9, 1.0), 10: (0.1, 5.0, 0.9, 1.0), 40: (0.1, 4.0, 0.9, 1.0)}
    student = make_run(tmp_path / "student", {1: (0.1, 6.13, 0.9, 1.0)})
    assert "needs 4 for a value as good (6.00)." in render([make_run(tmp_path / "base", base), student]).text


def test_strips_stand_side_by_side_in_order_of_cost(runs: list[Path]) -> None:
    images = render(runs, labels=["base flow", "rectified flow"]).images()
    assert [alt for alt, _ in images] == [
        "Samples of base flow, 1 step",
        "Samples of rectified flow, 1 step",
        "Samples of base flow, 2 steps",
        "Samples of rectified flow, 2 steps",
        "Samples of base flow, 4 steps",
        "Samples of base flow, 10 steps",
    ]
    assert [image.getpixel((0, 0)) for _, image in images] == [10, 10, 20, 20, 40, 100]


def test_small_pictures_are_enlarged_by_a_whole_factor_without_blur(tmp_path: Path) -> None:
    run = make_run(tmp_path / "base", {1: BASE[1]})
    pixels = np.random.default_rng(0).integers(0, 256, (8, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(run / "samples/euler-1.png")
    ((_, image),) = render([run]).images()
    assert image.size == (960, 96)
    assert np.array_equal(np.asarray(image)[::12, ::12], pixels)
    assert np.array_equal(np.asarray(image)[11::12, 11::12], pixels)


def test_large_pictures_are_reduced_until_the_page_can_be_mailed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "base", BASE)
    generator = np.random.default_rng(0)
    for steps in BASE:
        noise = generator.integers(0, 256, (500, 700, 3), dtype=np.uint8)
        Image.fromarray(noise).save(run / f"samples/euler-{steps}.png", compress_level=1)
    page = render([run])
    assert len(page.images()) == len(BASE)
    assert len(page.source.encode()) < SIZE_LIMIT


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "outside"])
def test_a_picture_that_cannot_be_shown_is_named(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path / "base", BASE)
    path = run / "samples/euler-2.png"
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("not a picture")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:50])
    else:
        picture(tmp_path / "secret.png", 99)
        append(run, Row("euler", 2, 2.0, 1.0, 9, 0, {"swd": 1.0}, 0.1, "c", "../secret.png"))
    page = render([run])
    assert "base, 2 steps: the picture is missing or cannot be read." in page.text
    assert len(page.images()) == len(BASE) - 1


def test_a_view_stands_in_a_sandboxed_frame(tmp_path: Path) -> None:
    run = make_run(tmp_path / "base", {1: (1.0, 5.0, 0.9, 1.0), 4: (0.5, 4.0, 0.9, 1.0)})
    pages = {1: "<p>one</p>", 4: '<p title="x">four</p><script>"</iframe>"</script>'}
    for row in read_evaluation(run).rows:
        (run / f"samples/view-{row.steps}.html").write_text(pages[row.steps])
        append(run, replace(row, view=f"samples/view-{row.steps}.html"))
    text = write_report([run], run / "report.html", title="views").read_text()
    frame = re.search(r'<iframe class="view" sandbox="allow-scripts" srcdoc="([^"]*)"', text)
    assert frame is not None
    assert html.unescape(frame[1]) == pages[4]
    assert "<script" not in text
    (run / "samples/view-4.html").write_text("x" * 1_000_000)
    assert "<iframe" not in write_report([run], run / "report.html", title="views").read_text()
    for outside in ("../secret.html", "samples/absent.html"):
        append(run, replace(read_evaluation(run).rows[1], view=outside))
        (tmp_path / "secret.html").write_text("secret")
        assert "<iframe" not in write_report([run], run / "report.html", title="views").read_text()


def test_every_row_has_its_exact_command(runs: list[Path]) -> None:
    page = render(runs)
    numbers = [row[-1] for row in page.rows if row and row[-1].isdigit()]
    commands = re.findall(r'<li id="command-(\d+)"><pre class="command"><code>([^<]*)</code>', page.source)
    found = dict(commands)
    expected = [f"run=runs/base steps={steps}" for steps in BASE] + [
        f"run=runs/student steps={steps}" for steps in STUDENT
    ]
    assert [found[index].removeprefix("rectiflow evaluate images ") for index in numbers] == expected


def test_an_empty_run_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = render([tmp_path], title="Nothing yet")
    for sentence in ("No samples yet", "No figures yet", "No training log", "No commands recorded", "machine was not"):
        assert sentence in page.text
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "svg", "table"})


def test_training_log_previews_geometry_machine_and_configuration_are_shown(runs: list[Path]) -> None:
    lines = [{"step": step, "loss_average": 1 / (step + 1), "grad_norm": 2.0} for step in range(20)]
    text = "\n".join(map(json.dumps, [*lines, {"step": 20, "event": "nonfinite", "grad_norm": "nan"}]))
    (runs[0] / "metrics.jsonl").write_text(text + '\n{"step": 21, "lo')
    (runs[0] / "config.yaml").write_text("batch: 128\n")
    for step in range(0, 1000, 50):
        picture(runs[0] / f"samples/step-{step:08d}.png", step % 255)
    write_metrics(runs[0], {"straightness": 0.3125})
    page = render(runs)
    assert {"training loss", "gradient norm"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", page.source))
    previews = [alt for alt, _ in page.images() if "at step" in alt]
    assert len(previews) == 6
    assert previews[0].endswith("at step 0")
    assert previews[-1].endswith("at step 950")
    assert ["Straightness", "0.312", "\N{EN DASH}"] in page.rows
    assert "Transport cost" not in [row[0] for row in page.rows if row]
    assert "batch: 128" in page.text
    assert "model 9" in page.text
    assert "abc123" in page.text
    assert "gpu" not in page.text


def test_seeds_that_differ_are_not_called_the_same_noise(runs: list[Path]) -> None:
    assert "start from the same noise" in render(runs).text
    picture(runs[1] / "samples/euler-1.png", 1)
    append(runs[1], Row("euler", 1, 1.0, 1.0, 9, 7, {"swd": 1.0}, 0.1, "c", "samples/euler-1.png"))
    assert "they do not start from the same noise" in render(runs).text


def test_guided_and_adaptive_settings_are_told_apart(runs: list[Path]) -> None:
    append(runs[0], Row("euler", 10, 10.0, 2.5, 1440, 0, {"fd_digitsnet": 5.0}, 0.1, "c"))
    append(runs[0], Row("dopri5", 0, 61.25, 1.0, 1440, 0, {"fd_digitsnet": 4.5}, 0.1, "c"))
    page = render(runs)
    assert "Guidance" in page.text
    rows = [row for row in page.rows if len(row) > 5]
    assert ["euler", "10", "10", "2.5", "5.00"] in [row[:5] for row in rows]
    assert ["dopri5", "adaptive", "61.2", "1", "4.50"] in [row[:5] for row in rows]


def test_mistakes_are_named(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ConfigError, match="no run given"):
        write_report([], path, title="x")
    with pytest.raises(ConfigError, match="1 labels for 2 runs"):
        write_report(runs, path, title="x", labels=["one"])
    with pytest.raises(DataError, match="no such run folder"):
        write_report([tmp_path / "typo"], path, title="x")
    assert not path.exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (152.3, "152"),
        (6.127, "6.13"),
        (61.0, "61.0"),
        (0.98765, "0.988"),
        (0.0110, "0.0110"),
        (1440.4, "1,440"),
        (2.5e-5, "2.5e-5"),
        (-0.0312, "-0.0312"),
        (0.0, "0"),
        (float("nan"), "\N{EN DASH}"),
        (float("inf"), "inf"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.14, "2.1 s"), (75.0, "75 s"), (0.0344, "34 ms"), (2.5e-4, "250 µs"), (4e-8, "40 ns")]
)
def test_durations_carry_a_readable_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_better_curve_lies_lower_on_the_page_where_lower_is_better() -> None:
    lines = [Line("bad", [1, 10], [100, 50]), Line("good", [1, 10], [6, 5], run=1)]
    svg = scatter_curve(lines, x_label="NFE", y_label="FD", log_y=True)
    starts = {colour: _first_point(svg, colour) for colour in ("#75849a", "#c4512d")}
    assert starts["#c4512d"][1] > starts["#75849a"][1]  # svg's y axis points down
    assert starts["#c4512d"][0] == starts["#75849a"][0]


def test_figures_cope_with_what_a_log_axis_cannot_show() -> None:
    assert "<svg" in scatter_curve([Line("kid", [1, 2], [-0.1, 0.2])], x_label="NFE", y_label="KID", log_y=True)
    assert "<svg" in scatter_curve([Line("one", [5], [3.0])], x_label="NFE", y_label="FD", log_y=True)
    assert "<svg" in history_curve([Line("flat", [0, 1], [0.0, 0.0])], y_label="loss")


def test_figures_leave_global_settings_alone_and_repeat_exactly() -> None:
    probe = (
        "import matplotlib, sys; before = matplotlib.rcParams.copy()\n"
        "from rectiflow.report_figures import *\n"
        "line = Line('a', [1, 2, 4], [3.0, 2.0, 1.0])\n"
        "draw = lambda: scatter_curve([line], x_label='x', y_label='y', log_y=True)\n"
        "assert draw() == draw() and matplotlib.rcParams.copy() == before\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib.pyplot', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def _first_point(svg: str, colour: str) -> tuple[float, float]:
    path = re.search(r'<path d="M ([\d.]+) ([\d.]+)[^"]*" clip-path="[^"]*" style="fill: none; stroke: ' + colour, svg)
    assert path is not None
    return float(path[1]), float(path[2])
