"""`rectiflow separate audio`: what was asked for out of a sound file of any length, and what remains."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError, StorageError
from rectiflow.runs import CONFIG_FILE, read_config
from rectiflow_audio.extracting import Extractor, load_extractor
from rectiflow_audio.files import read_blocks, survey
from rectiflow_audio.rendering import parse_spans, render, replay, spool
from rectiflow_audio.representation import LEVEL, SAMPLE_RATE
from rectiflow_audio.resampling import resampled
from rectiflow_audio.separating import Segments, Separator, separate
from rectiflow_audio.separation_report import Separation, announce, write_reports

LONGEST_QUERY = 1000
LONGEST_PIECES = 255
_ARTICLES = {"a", "an", "the", "some"}


@dataclass(frozen=True)
class Request:
    """What is to be extracted: a name for files and pictures, a text for people, and the model's query (D,), of each stem."""

    names: list[str]
    texts: list[str]
    queries: Tensor


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Separate a file, write the stems, the residual, their pictures and the report, and return their folder.

    Raises:
        ConfigError: a bad setting, query or run, or no run at all.
        DataError: the file, or a reference, cannot be used.
        MissingDependency: the run's text encoder is not there.
        StorageError: the folder cannot be written.
    """
    _check(config)
    mixture = survey(Path(config.mix))
    spans = parse_spans(config.span, mixture.seconds)
    folder = Path(config.run) if config.run else newest_run(Path("runs"))
    extractor = load_extractor(folder, config.weights)
    request = requested(config.query, extractor)
    separator, segments = _separator(extractor, config), _segments(extractor, config)
    out = Path(config.out) if config.out else Path("separated") / mixture.path.stem
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error.strerror}; choose another out=") from error
    announce(mixture, folder, extractor, config)
    gain = LEVEL / mixture.level if mixture.level else 1.0
    began = time.perf_counter()
    with ExitStack() as stack:
        bar = stack.enter_context(_bar())
        task = bar.add_task("separating", total=mixture.seconds)
        total = -(-mixture.frames * SAMPLE_RATE // mixture.rate)
        blocks = separate(
            separator,
            (block * gain for block in resampled(read_blocks(mixture.path), mixture.rate, SAMPLE_RATE)),
            total,
            request.queries,
            segments=segments,
            seed=config.seed,
            advance=lambda samples: bar.advance(task, samples / SAMPLE_RATE),
        )
        spooled = spool(blocks, len(request.names), out, stack)
        bar.update(task, completed=mixture.seconds)
        names = [*request.names, "residual"]
        stems, picture, level = render(
            mixture,
            [partial(replay, file, mixture.channels) for file in spooled],
            [*request.texts, "residual"],
            [out / f"{mixture.path.stem}_{name}.{config.format}" for name in names],
            rate=SAMPLE_RATE,
            gain=gain,
            encoding=config.encoding,
            spans=spans,
            references=[Path(path) for path in config.reference],
        )
    seconds = time.perf_counter() - began
    write_reports(Separation(mixture, folder, config, stems, picture, level, seconds), out)
    return out


def newest_run(root: Path) -> Path:
    """The audio run under `root`/audio whose checkpoint is newest.

    Raises:
        ConfigError: there is none.
    """
    found = []
    for path in (root / "audio").rglob(CONFIG_FILE):
        saved = [checkpoint.stat().st_mtime for checkpoint in path.parent.glob("checkpoints/step-*")]
        if saved and read_config(path.parent).get("stage", "flow") == "flow":
            found.append((max(saved), path.parent))
    if not found:
        raise ConfigError(
            f"there is no trained audio run under {root / 'audio'}; train one with `rectiflow demo audio`, "
            "or give its folder: run=…"
        )
    return max(found)[1]


def requested(texts: Sequence[str], extractor: Extractor) -> Request:
    """The queries of texts.

    Raises:
        ConfigError: none, or one that is empty or too long.
        MissingDependency: the text encoder is not there.
    """
    if not texts:
        raise ConfigError('there is no query; say what to extract, once or several times: query="a dog barking"')
    for text in texts:
        _check_query("query", text)
    encoded = extractor.text.encode(list(texts))
    for text, pieces in zip(texts, encoded.mask.sum(dim=1).tolist(), strict=True):
        if pieces > LONGEST_PIECES:
            raise ConfigError(
                f"query={text[:40]!r}… has {pieces} word pieces or more; at most {LONGEST_PIECES} are allowed: shorten it"
            )
    return Request(file_names(texts), list(texts), encoded.pooled)


def file_names(texts: Sequence[str]) -> list[str]:
    """What stems are called in file names: the words of their queries without articles, each name once."""
    names = ["residual"]
    for text in texts:
        words = re.findall(r"[^\W_]+", text.lower())
        name = "_".join([word for word in words if word not in _ARTICLES] or words)[:40].strip("_") or "stem"
        count = 1 + sum(re.fullmatch(re.escape(name) + r"(_\d+)?", other) is not None for other in names)
        names.append(name if count == 1 else f"{name}_{count}")
    return names[1:]


def _separator(extractor: Extractor, config: DictConfig) -> Separator:
    negative = None
    if config.negative:
        _check_query("negative", config.negative)
        if config.guidance <= 1:
            raise ConfigError(
                f"negative={config.negative!r} has no effect with guidance={config.guidance:g}; use guidance=1.5 or so"
            )
        negative = extractor.queries([config.negative])[0]

    def extract(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        return extractor.extract(
            mixture,
            query,
            noise=noise,
            steps=config.steps,
            method=config.method,
            guidance=config.guidance,
            negative=negative,
        )

    return Separator(
        extract, extractor.noise_shape(1, 1)[1:-1], rate=SAMPLE_RATE, hop=extractor.spectra.hop, level=LEVEL
    )


def _segments(extractor: Extractor, config: DictConfig) -> Segments:
    hop = extractor.spectra.hop
    length = max(1, round(config.segment * SAMPLE_RATE / hop)) * hop
    return Segments(length, max(1, int(length * config.overlap)), hop)


def _check(config: DictConfig) -> None:
    if config.steps < 1:
        raise ConfigError(f"steps={config.steps} is not allowed: it must be an integer of at least 1")
    if not 0.1 <= config.segment <= 600:
        raise ConfigError(f"segment={config.segment:g} is not allowed: 0.1 to 600 seconds")
    if not 0 < config.overlap <= 0.5:
        raise ConfigError(f"overlap={config.overlap:g} is not allowed: above 0, at most 0.5 of a segment")
    if (config.format, config.encoding) not in {
        ("wav", "pcm16"),
        ("wav", "pcm24"),
        ("wav", "float"),
        ("flac", "pcm16"),
        ("flac", "pcm24"),
    }:
        raise ConfigError(
            f"format={config.format} with encoding={config.encoding} is not allowed: wav with pcm16, pcm24 or float, "
            "or flac with pcm16 or pcm24"
        )
    if len(config.reference) > len(config.query):
        raise ConfigError(
            f"{len(config.reference)} references were given for {len(config.query)} queries; give one a query, in their order"
        )


def _check_query(key: str, text: str) -> None:
    if not text.strip():
        raise ConfigError(f'{key}="" is empty; say what to extract in words: {key}="a dog barking"')
    if len(text) > LONGEST_QUERY:
        raise ConfigError(
            f"{key}={text[:40]!r}… has {len(text)} characters; at most {LONGEST_QUERY} are allowed: shorten it"
        )


class _Speed(ProgressColumn):
    """Seconds of sound done, and how many seconds of work each takes."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        factor = f"{task.elapsed / task.completed:.3f}" if task.elapsed and task.completed else "-"
        return Text(f"{task.completed:.1f}/{task.total or 0:.1f} s of sound, real-time factor {factor}")


def _bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), _Speed(), TimeRemainingColumn())
