"""Sound files of any format that libsndfile knows, read and written in blocks, so that length costs no memory."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError, StorageError

BLOCK = 65536
_PIECE = 4096
ENCODINGS = {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"}
WAV_LIMIT = 2**32 - 2**16  # a WAV file counts its bytes in 32 bits; beyond, its 64-bit form RF64 is written
_GATE_SECONDS, _GATE = 0.4, 1e-3


@dataclass(frozen=True)
class Survey:
    """What a sound file holds, found by reading all of it.

    Attributes:
        path: the file.
        rate: samples a second.
        channels: how many.
        frames: samples of each channel that can be decoded.
        container: format as libsndfile names it, whatever the file is called.
        encoding: how samples are stored.
        peak: the largest |sample|, full scale 1.
        level: root mean square of the parts that sound, those within 30 dB of the loudest; 0 for silence.
        remarks: what is odd about it, one line each.
    """

    path: Path
    rate: int
    channels: int
    frames: int
    container: str
    encoding: str
    peak: float
    level: float
    remarks: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.rate


def survey(path: Path) -> Survey:
    """Read a file once and say what it holds; a truncated one counts as far as it goes, with a remark.

    Raises:
        DataError: no file, not a sound file, no samples, or samples that are NaN or infinite.
    """
    peak, frames, powers = 0.0, 0, []
    with _opened(path) as file:
        promised, cut = file.frames, _cut(file)
        gate = max(1, round(file.samplerate * _GATE_SECONDS))
        rest = np.zeros((0, file.channels), np.float32)
        for block in _decoded(file):
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                second = (frames + int(np.argmin(finite))) / file.samplerate
                raise DataError(f"{path} holds NaN or infinite samples, the first at {second:.3f} s; export it again")
            frames += len(block)
            peak = max(peak, float(np.abs(block).max()))
            rest = np.concatenate((rest, block))
            whole = len(rest) // gate * gate
            powers.extend(np.square(rest[:whole], dtype=np.float64).reshape(-1, gate * file.channels).mean(axis=1))
            rest = rest[whole:]
        kind = file.samplerate, file.channels, file.format, file.subtype
    if len(rest):
        powers.append(float(np.square(rest, dtype=np.float64).mean()))
    if not frames:
        raise DataError(f"{path} holds no samples; give a file that plays")
    loud = [power for power in powers if power >= _GATE * max(powers)]
    remarks = []
    if cut or frames < promised:
        remarks.append(f"truncated: its header promises more than the {frames / kind[0]:.2f} s that can be decoded")
    if peak == 0:
        remarks.append("silent: every sample is 0")
    return Survey(path, kind[0], kind[1], frames, kind[2], kind[3], peak, math.sqrt(np.mean(loud)), tuple(remarks))


def read_blocks(path: Path, size: int = BLOCK) -> Iterator[Tensor]:
    """The samples (C, at most `size`) float32 of a file in order, as far as they can be decoded.

    Raises:
        DataError: no file, or not a sound file.
    """
    with _opened(path) as file:
        for block in _decoded(file, size):
            yield torch.from_numpy(np.ascontiguousarray(block.T))


def read_sound(path: Path, limit: float = 60.0) -> tuple[Tensor, int]:
    """All samples (C, T) of a short file, and its rate.

    Raises:
        DataError: see `survey`; or the file is longer than `limit` seconds.
    """
    found = survey(path)
    if found.seconds > limit:
        raise DataError(f"{path} lasts {found.seconds:.1f} s; at most {limit:g} s are allowed here: cut it")
    return torch.cat(list(read_blocks(path)), dim=1), found.rate


@contextmanager
def writing(
    path: Path, rate: int, channels: int, encoding: str = "pcm16", frames: int = 0
) -> Iterator[Callable[[Tensor], None]]:
    """A function that appends blocks (C, n) to a new file, which is there only once all of them are.

    Args:
        path: its suffix, .wav or .flac, is the format.
        rate: samples a second.
        channels: how many.
        encoding: "pcm16", "pcm24" (both clip at full scale) or "float" (WAV only).
        frames: how many are expected: a WAV file of more than 4 GB is written as RF64.

    Raises:
        ConfigError: an unknown suffix or encoding, or one that the format cannot hold.
        StorageError: the file cannot be written.
    """
    container = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if container is None or encoding not in ENCODINGS or (container, encoding) == ("FLAC", "float"):
        raise ConfigError(
            f"{path.name} as {encoding} cannot be written; allowed: .wav with pcm16, pcm24 or float, .flac with pcm16 or pcm24"
        )
    if container == "WAV" and frames * channels * 4 > WAV_LIMIT:
        container = "RF64"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with soundfile.SoundFile(scratch, "w", rate, channels, format=container, subtype=ENCODINGS[encoding]) as file:
            yield lambda block: _append(file, quantised(block, encoding).T.numpy())
        scratch.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.error_string
        raise StorageError(f"{path} cannot be written: {reason or error}; choose another out= or free space") from error
    finally:
        scratch.unlink(missing_ok=True)


def write(path: Path, wave: Tensor, rate: int, encoding: str = "pcm16") -> None:
    """Write a signal (C, T) in memory as a file.

    Raises:
        ConfigError, StorageError: see `writing`.
    """
    with writing(path, rate, wave.shape[0], encoding, wave.shape[1]) as append:
        append(wave)


def quantised(wave: Tensor, encoding: str) -> Tensor:
    """Samples as they are stored: multiples of 2^-15 as int16, of 2^-23 in the upper bits of int32, or as they are.

    What was read from such a file and is written again comes out bit for bit; libsndfile's own scaling does not do so.
    """
    if encoding == "float":
        return wave.float()
    bits = 15 if encoding == "pcm16" else 23
    steps: Tensor = (wave.double() * 2**bits).round().clamp(-(2**bits), 2**bits - 1)
    return steps.to(torch.int16) if encoding == "pcm16" else steps.to(torch.int32) << 8


def _append(file: soundfile.SoundFile, block: np.ndarray) -> None:
    try:
        file.write(np.ascontiguousarray(block))
    except AssertionError as error:  # how soundfile says that the disk took less than it was given
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """The file, known by what is in it and not by its name."""
    try:
        # A descriptor and no name: soundfile takes a suffix such as .raw for the format.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}; give the path of a sound file") from error
    if path.is_dir() or not path.stat().st_size:
        os.close(descriptor)
        what = "is a folder" if path.is_dir() else "is empty (0 bytes)"
        raise DataError(f"{path} {what}; give the path of a sound file")
    try:
        file = soundfile.SoundFile(descriptor, closefd=True)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{path} is not a sound file that can be read ({error.error_string.rstrip('.')}); "
            "allowed: wav, flac, ogg, opus, mp3, aiff, au, caf, w64 and the others of libsndfile; convert it first"
        ) from error
    with file:
        yield file


def _cut(file: soundfile.SoundFile) -> bool:
    """Whether a WAV file's data are longer by its header than they are; libsndfile corrects that, and says so in its log."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    return found is not None and int(found[1]) > int(found[2]) + 1  # one byte may pad an odd number


def _decoded(file: soundfile.SoundFile, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Blocks (n, C) until the end, or until the decoder meets the end of a truncated file."""
    held: list[np.ndarray] = []
    count, going = 0, True
    while going:
        try:
            # What is left of a truncated file is lost by the piece, so pieces are small whatever the blocks are.
            piece = file.read(_PIECE, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            piece = np.zeros((0, file.channels), np.float32)
        going = len(piece) > 0
        held.append(piece)
        count += len(piece)
        if count >= size or not going:
            joined = np.concatenate(held)
            whole = count // size * size if going else count
            yield from (joined[first : min(first + size, whole)] for first in range(0, whole, size))
            held, count = [joined[whole:]], count - whole
