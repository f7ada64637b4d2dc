"""What a separation says of itself: lines, a table, a picture, report.json, and report.html with players."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rectiflow.errors import StorageError
from rectiflow.records import write_atomically
from rectiflow_audio.extracting import Extractor
from rectiflow_audio.files import Survey, read_blocks
from rectiflow_audio.players import encoded, page, player
from rectiflow_audio.rendering import Stem
from rectiflow_audio.representation import SAMPLE_RATE
from rectiflow_audio.spectrograms import stacked

EMBEDDED_SECONDS = 30.0
"""Longer sounds are played from the files beside the page instead of from within it."""
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@dataclass(frozen=True)
class Separation:
    """A finished separation.

    Attributes:
        mixture: the file.
        run: the model's folder.
        config: the verb's settings.
        stems: what was written, the residual last.
        picture: the mixture's spectrogram.
        level: the factor by which all files were turned down.
        presence: of each stem, the probability that it holds what was asked for; None where nothing can tell.
        seconds: how long it took.
    """

    mixture: Survey
    run: Path
    config: DictConfig
    stems: list[Stem]
    picture: Tensor
    level: float
    presence: list[float | None]
    seconds: float

    @property
    def real_time_factor(self) -> float:
        """Seconds of work a second of sound."""
        return self.seconds / self.mixture.seconds


def announce(mixture: Survey, run: Path, extractor: Extractor, config: DictConfig) -> None:
    """Say what goes in, and what it goes through."""
    steps = f"{config.steps} step{'s' if config.steps > 1 else ''} of {config.method}"
    guided = "" if config.guidance == 1 else f", guidance {config.guidance:g}"
    print(f"{mixture.path}: {described(mixture)}")
    for remark in mixture.remarks:
        print(f"  note: {remark}")
    if mixture.rate != SAMPLE_RATE:
        print(f"  the model works at {SAMPLE_RATE} Hz: {band_of(mixture.rate)}")
    asked = f"queries by {extractor.text.name}" if extractor.layout.asked else ", ".join(extractor.layout.names)
    print(f"{run}: {asked}, {steps}{guided}, seed {config.seed}, {extractor.device}", flush=True)


def described(mixture: Survey) -> str:
    """A file in words."""
    channels = {1: "mono", 2: "stereo"}.get(mixture.channels, f"{mixture.channels} channels")
    return f"{mixture.seconds:.2f} s, {mixture.rate} Hz, {channels}, {mixture.container} {mixture.encoding}"


def band_of(rate: int) -> str:
    """Where the frequencies of a file go that the model does not know."""
    if rate > SAMPLE_RATE:
        return f"what is above {SAMPLE_RATE / 2000:g} kHz stays in the residual"
    return "the file is brought there and back"


def write_reports(separation: Separation, out: Path) -> None:
    """Print the table, and write spectrograms.png, report.json and report.html.

    Raises:
        StorageError: one of them cannot be written.
    """
    rows = [("mixture", separation.picture), *((stem.name, stem.picture) for stem in separation.stems)]
    stream = io.BytesIO()
    stacked(rows, separation.mixture.seconds, separation.mixture.rate).save(stream, format="PNG", optimize=True)
    try:
        (out / "spectrograms.png").write_bytes(stream.getvalue())
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}; choose another out= or free space") from error
    write_atomically(out / "report.json", json.dumps(facts(separation), indent=1, allow_nan=False))
    write_atomically(out / "report.html", _page(separation, stream.getvalue()))
    _print(separation)
    print(
        f"{separation.seconds:.1f} s of work, real-time factor {separation.real_time_factor:.3f}: {out} "
        "(report.html plays everything)"
    )


def facts(separation: Separation) -> dict[str, Any]:
    """The report as plain values; what is undefined, such as the level of silence, is null."""
    mixture = {
        **asdict(separation.mixture),
        "path": str(separation.mixture.path),
        "seconds": separation.mixture.seconds,
    }
    return {
        "mixture": mixture,
        "run": str(separation.run),
        "settings": OmegaConf.to_container(separation.config),
        "model_rate": SAMPLE_RATE,
        "band": band_of(separation.mixture.rate) if separation.mixture.rate != SAMPLE_RATE else None,
        "turned_down_db": _decibels(separation.level),
        "seconds": separation.seconds,
        "real_time_factor": separation.real_time_factor,
        "threads": torch.get_num_threads(),
        "stems": [
            {
                "name": stem.name,
                "file": stem.path.name,
                "rms_dbfs": _decibels(stem.rms),
                "peak_dbfs": _decibels(stem.peak),
                "energy_share": None if math.isnan(stem.share) else stem.share,
                "presence": presence,
                "si_sdr": _finite(stem.si_sdr[0]) if stem.si_sdr else None,
                "si_sdr_improvement": _finite(stem.si_sdr[0] - stem.si_sdr[1]) if stem.si_sdr else None,
            }
            for stem, presence in zip(separation.stems, separation.presence, strict=True)
        ],
    }


def _cells(separation: Separation) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table."""
    heads = ["stem", "file", "RMS dBFS", "peak dBFS", "energy %"]
    judged = any(stem.si_sdr for stem in separation.stems)
    heard = any(presence is not None for presence in separation.presence)
    heads += ["presence %"] if heard else []
    heads += ["SI-SDR dB", "improved by"] if judged else []
    rows = []
    for fact in facts(separation)["stems"]:
        share = fact["energy_share"]
        row = [fact["name"], fact["file"], _text(fact["rms_dbfs"]), _text(fact["peak_dbfs"])]
        row.append("-" if share is None else f"{100 * share:.1f}")
        row += ["-" if fact["presence"] is None else f"{100 * fact['presence']:.0f}"] if heard else []
        row += [_text(fact["si_sdr"]), _text(fact["si_sdr_improvement"])] if judged else []
        rows.append(row)
    return heads, rows


def _print(separation: Separation) -> None:
    heads, rows = _cells(separation)
    table = Table()
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    Console().print(table)
    if separation.level < 1:
        print(f"all files were turned down by {-20 * math.log10(separation.level):.2f} dB, so that none clips")


def _page(separation: Separation, picture: bytes) -> str:
    heads, rows = _cells(separation)
    mixture = separation.mixture
    sounds = [_address(stem.path, mixture) for stem in separation.stems]
    lines = [f"<tr><td>mixture</td><td>{player(_address(mixture.path, mixture))}</td></tr>"]
    for row, sound in zip(rows, sounds, strict=True):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        lines.append(f"<tr><td>{html.escape(row[0])}</td><td>{player(sound)}</td>{cells}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [heads[0], "", *heads[1:]])
    notes = [described(mixture), *mixture.remarks]
    if mixture.rate != SAMPLE_RATE:
        notes.append(f"the model works at {SAMPLE_RATE} Hz: {band_of(mixture.rate)}")
    if separation.level < 1:
        notes.append(f"all files were turned down by {-20 * math.log10(separation.level):.2f} dB, so that none clips")
    config = separation.config
    notes.append(
        f"{separation.run}, {config.steps} steps of {config.method}, guidance {config.guidance:g}, seed {config.seed}"
    )
    notes.append(f"{separation.seconds:.1f} s of work, real-time factor {separation.real_time_factor:.3f}")
    image = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
    body = (
        f"<p>{'<br>'.join(html.escape(note) for note in notes)}</p><table><tr>{head}</tr>{''.join(lines)}</table>"
        f'<p><img src="{image}" alt="Spectrograms of the mixture and of each stem"></p>'
    )
    return page(mixture.path.name, body)


def _address(path: Path, mixture: Survey) -> str:
    if mixture.seconds > EMBEDDED_SECONDS or mixture.channels > 2 or mixture.rate not in _MP3_RATES:
        return path.name if path != mixture.path else path.resolve().as_uri()
    return encoded(torch.cat(list(read_blocks(path)), dim=1), mixture.rate)


def _decibels(value: float) -> float | None:
    return 20 * math.log10(value) if value > 0 else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
