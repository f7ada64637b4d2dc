"""`rectiflow separate audio`: what was asked for out of a sound file of any length, and what remains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError, StorageError
from rectiflow_audio.asking import (
    Request,
    all_parts,
    best_extract,
    check_query,
    find_encoder,
    find_run,
    presences,
    requested,
)
from rectiflow_audio.encoder import SoundTextEncoder
from rectiflow_audio.extracting import Extractor, load_extractor
from rectiflow_audio.files import Survey, read_blocks, survey
from rectiflow_audio.layout import Layout
from rectiflow_audio.rendering import parse_spans, render, replay, spool
from rectiflow_audio.representation import LEVEL, SAMPLE_RATE
from rectiflow_audio.resampling import resampled
from rectiflow_audio.separating import Segments, Separator, separate
from rectiflow_audio.separation_report import Separation, announce, write_reports


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
    folder = Path(config.run) if config.run else find_run(Path("runs"))
    if folder is None:
        raise ConfigError(
            "there is no trained audio run under runs/audio; train one with `rectiflow demo audio`, or give its folder: run=…"
        )
    extractor = load_extractor(folder, config.weights)
    encoder, exemplars = find_encoder(config.encoder, extractor.text), [Path(path) for path in config.exemplar]
    if extractor.layout.asked:
        request = requested(config.query, exemplars, extractor.text, encoder, config.unasked)
    else:
        request = all_parts(extractor.layout, config.query, exemplars, config.unasked)
    _check_references(config, extractor.layout, len(request.names))
    separator = _separator(extractor, encoder, config)
    segments = segments_of(extractor, config.segment, config.overlap)
    out = Path(config.out) if config.out else Path("separated") / mixture.path.stem
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error.strerror}; choose another out=") from error
    announce(mixture, folder, extractor, config)
    gain = LEVEL / mixture.level if mixture.level else 1.0
    began = time.perf_counter()
    with ExitStack() as stack:
        spooled = spool(
            _separated(mixture, gain, separator, request, segments, config.seed), len(request.names), out, stack
        )
        plays = [partial(replay, file, mixture.channels) for file in spooled]
        heard: list[float | None] = [None] * len(plays)
        if encoder is not None and request.queries is not None:
            heard = [
                presences(encoder, play(), query) if query.any() else None
                for play, query in zip(plays, request.queries, strict=True)
            ]
        stems, picture, level = render(
            mixture,
            plays,
            [*request.texts, "residual"],
            [out / f"{mixture.path.stem}_{name}.{config.format}" for name in (*request.names, "residual")],
            rate=SAMPLE_RATE,
            gain=gain,
            encoding=config.encoding,
            spans=spans,
            references=[Path(path) for path in config.reference],
        )
    seconds = time.perf_counter() - began
    write_reports(Separation(mixture, folder, config, stems, picture, level, [*heard, None], seconds), out)
    return out


def _separated(
    mixture: Survey, gain: float, separator: Separator, request: Request, segments: Segments, seed: int
) -> Iterator[Tensor]:
    """Blocks (C, S, n) of the stems at the model's rate and level, with a bar of how far they are."""
    with Progress(TextColumn("{task.description}"), BarColumn(), _Speed(), TimeRemainingColumn()) as bar:
        task = bar.add_task("separating", total=mixture.seconds)
        yield from separate(
            separator,
            (block * gain for block in resampled(read_blocks(mixture.path), mixture.rate, SAMPLE_RATE)),
            -(-mixture.frames * SAMPLE_RATE // mixture.rate),
            request.queries,
            segments=segments,
            seed=seed,
            advance=lambda samples: bar.advance(task, samples / SAMPLE_RATE),
        )
        bar.update(task, completed=mixture.seconds)


def _separator(extractor: Extractor, encoder: SoundTextEncoder | None, config: DictConfig) -> Separator:
    negative, shape = None, extractor.noise_shape(1, 1)[1:-1]
    if config.negative:
        check_query("negative", config.negative)
        if config.guidance <= 1:
            raise ConfigError(
                f"negative={config.negative!r} has no effect with guidance={config.guidance:g}; use guidance=1.5 or so"
            )
        negative = extractor.queries([config.negative])[0]

    def once(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        return extractor.extract(
            mixture,
            query,
            noise=noise,
            steps=config.steps,
            method=config.method,
            guidance=config.guidance,
            negative=negative,
        )

    if config.candidates > 1:
        if encoder is None:
            raise ConfigError(
                f"candidates={config.candidates} needs a sound-text encoder to choose by, and there is none under runs/; "
                "train one: rectiflow train audio stage=encoder name=encoder"
            )
        return Separator(best_extract(once, encoder), (config.candidates, *shape), SAMPLE_RATE, extractor.spectra.hop)
    layout = extractor.layout
    kept = 1 if layout.asked else len(layout.names)
    return Separator(once, shape, SAMPLE_RATE, extractor.spectra.hop, kept, unordered=not layout.ordered)


def segments_of(extractor: Extractor, seconds: float, overlap: float) -> Segments:
    """Segments of about so many seconds, of which neighbours share a part `overlap`, for a model."""
    # Neighbours that cut time into the same places agree where they overlap; others differ by some decibels.
    grid = extractor.spectra.hop * extractor.period
    length = max(2, round(seconds * SAMPLE_RATE / grid)) * grid
    return Segments(length, max(1, int(length * overlap)), grid)


def _check(config: DictConfig) -> None:
    for name in ("steps", "candidates"):
        if config[name] < 1:
            raise ConfigError(f"{name}={config[name]} is not allowed: it must be an integer of at least 1")
    if config.candidates > 1 and config.steps == 1:
        raise ConfigError(
            f"candidates={config.candidates} with steps=1 are all the same, since what was drawn is first looked at in the "
            "second step: use steps=2 or more, or candidates=1"
        )
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


def _check_references(config: DictConfig, layout: Layout, stems: int) -> None:
    if config.reference and not layout.ordered:
        raise ConfigError(
            f"reference= cannot be compared with {', '.join(layout.names)}, which have no order; leave it out"
        )
    if len(config.reference) > stems:
        raise ConfigError(
            f"{len(config.reference)} references were given for {stems} stems; give one a stem, in their order"
        )


class _Speed(ProgressColumn):
    """Seconds of sound done, and how many seconds of work each takes."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        factor = f"{task.elapsed / task.completed:.3f}" if task.elapsed and task.completed else "-"
        return Text(f"{task.completed:.1f}/{task.total or 0:.1f} s of sound, real-time factor {factor}")
