"""Stems as files: brought to the rate and level of the mixture's file, with a residual that makes their sum that file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow_audio.files import BLOCK, Survey, read_blocks, survey, writing
from rectiflow_audio.resampling import regrouped, resampled
from rectiflow_audio.spectrograms import Spectrogram

FADE = 0.01
"""Seconds in which a stem rises and falls at the ends of a span."""
_CEILING = 1 - 2**-15


@dataclass(frozen=True)
class Stem:
    """One file that was written.

    Attributes:
        name: what it holds.
        path: where.
        rms: root mean square, full scale 1.
        peak: largest |sample|.
        share: its energy over the mixture's; nan for a silent mixture. Shares sum to 1 only if stems are uncorrelated.
        picture: its spectrogram (513, columns) in dB.
        si_sdr: in dB against the reference, and of the mixture against it; None without a reference.
    """

    name: str
    path: Path
    rms: float
    peak: float
    share: float
    picture: Tensor
    si_sdr: tuple[float, float] | None = None


def spool(blocks: Iterable[Tensor], stems: int, folder: Path, keep: ExitStack) -> list[IO[bytes]]:
    """A nameless file for each stem of blocks (C, S, n) of float32, closed with `keep`.

    Raises:
        StorageError: the folder has no room.
    """
    try:
        files: list[IO[bytes]] = []
        for _ in range(stems):
            files.append(keep.enter_context(tempfile.TemporaryFile(dir=folder)))  # noqa: SIM115 - the caller's to close
        for block in blocks:
            for index, file in enumerate(files):
                file.write(block[:, index].T.contiguous().numpy().tobytes())
        for file in files:
            file.flush()
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror}; choose another out= or free space"
        ) from error
    return files


def replay(file: IO[bytes], channels: int, size: int = BLOCK) -> Iterator[Tensor]:
    """The blocks (C, at most `size`) of a spooled stem."""
    file.seek(0)
    while data := file.read(4 * channels * size):
        yield torch.from_numpy(np.frombuffer(data, np.float32).reshape(-1, channels).T.copy())


def render(
    mixture: Survey,
    stems: Sequence[Callable[[], Iterator[Tensor]]],
    names: Sequence[str],
    paths: Sequence[Path],
    *,
    rate: int,
    gain: float,
    encoding: str,
    spans: Sequence[tuple[float, float]] = (),
    references: Sequence[Path] = (),
) -> tuple[list[Stem], Tensor, float]:
    """Write stems, and last the residual, which takes what is above the model's band too.

    Args:
        mixture: the file that they come from.
        stems: for each, a function that plays its blocks (C, n) at `rate`, times `gain`, from the beginning.
        names: of the stems and of the residual.
        paths: likewise.
        rate: the model's, samples a second.
        gain: by which the mixture was multiplied.
        encoding: see `files.writing`.
        spans: seconds outside of which stems are silent; none: they sound throughout.
        references: files of what the stems should be.

    Returns:
        What was written; the mixture's spectrogram; and the factor, at most 1, by which all files were turned down so that none
        clips (1 for float).

    Raises:
        DataError: a reference of another rate, length or number of channels.
        StorageError: a file cannot be written.
    """
    for path in references:
        found = survey(path)
        if (found.rate, found.channels, found.frames) != (mixture.rate, mixture.channels, mixture.frames):
            raise DataError(
                f"reference={path} has {found.channels} channels of {found.frames} samples at {found.rate} Hz; it must match the "
                f"mixture: {mixture.channels} of {mixture.frames} at {mixture.rate} Hz"
            )
    level = 1.0
    while True:
        tallies = [_Tally(mixture) for _ in paths]
        whole = _Tally(mixture)
        with ExitStack() as stack:
            append = [
                stack.enter_context(writing(path, mixture.rate, mixture.channels, encoding, mixture.frames))
                for path in paths
            ]
            judged = [_Judge() for _ in references]
            told = [read_blocks(path) for path in references]
            for y, parts in _parts(mixture, stems, rate, gain, spans):
                whole.add(y)
                for part, write, tally in zip(parts, append, tallies, strict=True):
                    tally.add(part)
                    write(part * level)
                for judge, part, truth in zip(judged, parts, told, strict=False):
                    judge.add(part, y, next(truth))
        peak = max(tally.peak for tally in tallies)
        if encoding == "float" or peak * level <= 1:
            break
        level = _CEILING / peak
    scores: list[tuple[float, float] | None] = [judge.si_sdr() for judge in judged]
    scores += [None] * (len(paths) - len(scores))
    written = [
        Stem(
            name,
            path,
            tally.rms,
            tally.peak,
            tally.energy / whole.energy if whole.energy else math.nan,
            tally.picture(),
            score,
        )
        for name, path, tally, score in zip(names, paths, tallies, scores, strict=True)
    ]
    return written, whole.picture(), level


def _parts(
    mixture: Survey,
    stems: Sequence[Callable[[], Iterator[Tensor]]],
    rate: int,
    gain: float,
    spans: Sequence[tuple[float, float]],
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Blocks of the mixture (C, n), and of its stems and the residual, which sum to it."""
    played = [regrouped(resampled(stem(), rate, mixture.rate), BLOCK) for stem in stems]
    place = 0
    for y in regrouped(read_blocks(mixture.path), BLOCK):
        gate = span_gate(place, y.shape[1], mixture.rate, spans)
        parts = [next(stem)[:, : y.shape[1]] / gain * gate for stem in played]
        place += y.shape[1]
        yield y, [*parts, y - sum(parts, torch.zeros_like(y))]


def span_gate(first: int, count: int, rate: int, spans: Sequence[tuple[float, float]]) -> Tensor:
    """Factors (count,) of the samples from `first` on: 1 inside the spans (seconds), 0 outside, with a fade of 10 ms."""
    if not spans:
        return torch.ones(count)
    time = torch.arange(first, first + count, dtype=torch.float64) / rate
    inside = [torch.minimum(time - begin, end - time) / FADE + 0.5 for begin, end in spans]
    return torch.stack(inside).amax(dim=0).clamp(0, 1).float()


def parse_spans(text: str, seconds: float) -> list[tuple[float, float]]:
    """Spans out of "2.0-5.5,8-9", in seconds within a file that lasts `seconds`; none out of nothing.

    Raises:
        ConfigError: not of that form, or outside of the file.
    """
    spans = []
    for part in text.split(",") if text else []:
        begin, dash, end = part.strip().partition("-")
        try:
            spans.append((float(begin), float(end)))
        except ValueError:
            dash = ""
        if not dash or not 0 <= spans[-1][0] < spans[-1][1] or spans[-1][0] >= seconds:
            raise ConfigError(
                f"span={text} is not allowed: from-to in seconds within the file's {seconds:.2f} s, for example span=2.0-5.5,8-9"
            )
    return spans


class _Tally:
    """Energy, peak and spectrogram of a signal in blocks."""

    def __init__(self, mixture: Survey) -> None:
        self.peak, self.energy, self._count = 0.0, 0.0, mixture.frames * mixture.channels
        self._spectrogram = Spectrogram(mixture.frames)

    def add(self, block: Tensor) -> None:
        self.peak = max(self.peak, float(block.abs().max()))
        self.energy += float(block.double().square().sum())
        self._spectrogram.add(block.mean(dim=0))

    @property
    def rms(self) -> float:
        return math.sqrt(self.energy / self._count)

    def picture(self) -> Tensor:
        return self._spectrogram.decibels()


class _Judge:
    """Scale-invariant distortion ratio of an estimate and of the mixture, from inner products alone."""

    def __init__(self) -> None:
        self._products = torch.zeros(5, dtype=torch.float64)

    def add(self, estimate: Tensor, mixture: Tensor, truth: Tensor) -> None:
        e, y, s = (part.double().flatten() for part in (estimate, mixture, truth))
        self._products += torch.stack((s @ s, e @ s, e @ e, y @ s, y @ y))

    def si_sdr(self) -> tuple[float, float]:
        """In dB, of the estimate and of the mixture; nan for a silent reference."""
        ss, es, ee, ys, yy = self._products.tolist()
        return _ratio(es, ee, ss), _ratio(ys, yy, ss)


def _ratio(es: float, ee: float, ss: float) -> float:
    if not ss:
        return math.nan
    signal = es * es / ss
    return min(100.0, max(-100.0, 10 * math.log10((signal + 1e-30) / (max(ee - signal, 0) + 1e-30))))
