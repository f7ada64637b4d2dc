"""`rectiflow separate audio`, with a model that splits at 1 kHz in place of a trained one."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from rectiflow.cli import main
from rectiflow.errors import MissingDependency
from rectiflow_audio import asking, separate, separation_report
from rectiflow_audio.asking import file_names, find_run
from rectiflow_audio.encoder import SoundTextEncoder
from rectiflow_audio.layout import ASKED
from rectiflow_audio.metrics import si_sdr
from rectiflow_audio.rendering import parse_spans, span_gate
from rectiflow_audio.representation import Spectra
from rectiflow_audio.text import HashedEncoder

RATE = 44100


class Splitter:
    """Extracts what is below 1 kHz for the query "low", and what is above for any other."""

    spectra, text, layout, device, period = Spectra(), HashedEncoder(), ASKED, "cpu", 1

    def queries(self, texts: list[str]) -> Tensor:
        return self.text.encode(texts).pooled

    def noise_shape(self, batch: int, samples: int) -> tuple[int, ...]:
        return batch, 2, 2, self.spectra.bins, self.spectra.frames(samples)

    def extract(self, mixture: Tensor, query: Tensor, *, noise: Tensor, **options: object) -> Tensor:
        assert noise.shape == self.noise_shape(*mixture.shape)
        spectrum = torch.fft.rfft(mixture)
        spectrum[:, int(1000 * mixture.shape[1] / 16000) :] = 0
        low = torch.fft.irfft(spectrum, n=mixture.shape[1])
        asked = (query @ self.queries(["low"])[0] > 0.9)[:, None]
        target = torch.where(asked, low, mixture - low)
        return torch.stack((target, mixture - target), dim=1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(separate, "load_extractor", lambda run, weights: Splitter())
    return tmp_path


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same without pictures, which take most of the time."""
    monkeypatch.setattr(separation_report, "stacked", lambda *arguments: Image.new("RGB", (1, 1)))
    return place


def tones(frames: int, channels: int = 2, rate: int = RATE) -> np.ndarray:
    time = np.arange(frames) / rate
    gains = 1 - 0.3 * np.arange(channels)
    return np.stack([0.3 * np.sin(2 * np.pi * 300 * time), 0.2 * np.sin(2 * np.pi * 3000 * time)])[..., None] * gains


def call(*arguments: str) -> int:
    return main(["separate", "audio", "run=x", *arguments])


def test_same_rate_channels_and_length_and_the_files_sum_to_the_mixture(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tones(RATE + 17)
    hiss = 0.05 * np.sin(2 * np.pi * 15_000 * np.arange(RATE + 17) / RATE)[:, None]
    soundfile.write("my mix.flac", truth.sum(axis=0) + hiss, RATE, subtype="PCM_24")
    for name, wave in zip(("low", "high"), truth, strict=True):
        soundfile.write(f"{name}.wav", wave, RATE, subtype="FLOAT")
    options = ["query=low", "query=a high (shrill) tone", "reference=low.wav", "reference=high.wav", "segment=0.4"]
    assert call("my mix.flac", *options, "encoding=pcm24") == 0
    out = place / "separated" / "my mix"
    files = {stem: out / f"my mix_{stem}.wav" for stem in ("low", "high_shrill_tone", "residual")}
    found = {stem: soundfile.read(path)[0] for stem, path in files.items()}
    for path in files.values():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (RATE, 2, RATE + 17, "PCM_24")
    mixture = soundfile.read("my mix.flac")[0]
    assert np.abs(sum(found.values()) - mixture).max() < 4 * 2**-23
    for stem, wave in zip(("low", "high_shrill_tone"), truth, strict=True):
        middle = slice(2000, -2000)
        error = found[stem][middle] - wave[middle]
        assert np.square(error).sum() < 1e-4 * np.square(wave[middle]).sum()
    assert np.square(found["residual"] - hiss)[2000:-2000].mean() < 1e-2 * np.square(hiss).mean()

    report = json.loads((out / "report.json").read_text())
    assert [stem["name"] for stem in report["stems"]] == ["low", "a high (shrill) tone", "residual"]
    low = report["stems"][0]
    assert low["energy_share"] == pytest.approx(np.square(found["low"]).sum() / np.square(mixture).sum(), rel=1e-4)
    expected = si_sdr(torch.from_numpy(found["low"]).flatten(), torch.from_numpy(truth[0]).flatten())
    before = si_sdr(torch.from_numpy(mixture).flatten(), torch.from_numpy(truth[0]).flatten())
    assert low["si_sdr"] == pytest.approx(float(expected), abs=0.01)
    assert low["si_sdr_improvement"] == pytest.approx(float(expected - before), abs=0.01)
    assert low["rms_dbfs"] == pytest.approx(10 * math.log10(np.square(found["low"]).mean()), abs=0.01)
    with Image.open(out / "spectrograms.png") as image:
        assert image.size[0] == 1000
    page = (out / "report.html").read_text()
    assert len(re.findall(r'<audio [^>]*src="data:audio/mpeg', page)) == 4
    printed = capsys.readouterr().out
    for text in ("44100 Hz, stereo, FLAC PCM_24", "above 8 kHz stays in the residual", "real-time factor", "energy %"):
        assert text in printed


def test_the_same_seed_gives_the_same_bytes_and_channels_are_alike(folder: Path) -> None:
    wave = np.random.default_rng(0).standard_normal((RATE // 4, 2)) * 0.1
    soundfile.write("a.wav", wave, RATE)
    soundfile.write("b.wav", wave[:, ::-1], RATE)
    soundfile.write("c.wav", wave[:, [0, 0]], RATE)
    for name, out in (("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")):
        assert call(f"{name}.wav", "query=low", f"out={out}", "segment=0.1") == 0
    for stem in ("low", "residual"):
        assert (folder / f"1/a_{stem}.wav").read_bytes() == (folder / f"2/a_{stem}.wav").read_bytes()
        one, swapped, same = (
            soundfile.read(path)[0] for path in (f"1/a_{stem}.wav", f"3/b_{stem}.wav", f"4/c_{stem}.wav")
        )
        assert np.array_equal(one, swapped[:, ::-1])
        assert np.array_equal(same[:, 0], same[:, 1])


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "frames"),
    [
        (8000, 1, "PCM_U8", 8001),
        (96000, 2, "PCM_24", 24000),
        (16000, 6, "FLOAT", 5),
        (44101, 1, "PCM_16", 8000),
        (48000, 1, "PCM_16", 1),
    ],
)
def test_any_file(rate: int, channels: int, subtype: str, frames: int, folder: Path) -> None:
    soundfile.write("a.wav", 0.1 * np.random.default_rng(0).standard_normal((frames, channels)), rate, subtype=subtype)
    assert call("a.wav", "query=low", "out=o", "format=flac" if subtype != "FLOAT" else "encoding=float") == 0
    for path in folder.glob("o/a_*.*"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (rate, channels, frames)
    assert len(list(folder.glob("o/a_*.*"))) == 2


def test_silence_stays_silent(folder: Path) -> None:
    soundfile.write("a.wav", np.zeros((RATE // 4, 1)), RATE)
    assert call("a.wav", "query=low", "out=o") == 0
    assert np.abs(soundfile.read("o/a_low.wav")[0]).max() < 1e-3
    assert json.loads((folder / "o/report.json").read_text())["stems"][0]["energy_share"] is None


def test_levels_come_back_and_nothing_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A quiet file stays quiet; a float file beyond full scale is turned down as a whole, or kept as float."""
    truth = tones(RATE // 4, 1)[..., 0]
    for name, gain in (("quiet", 1e-3), ("loud", 5.0)):
        soundfile.write(f"{name}.wav", gain * truth.sum(axis=0), RATE, subtype="FLOAT")
        assert call(f"{name}.wav", "query=low", f"out={name}", "encoding=float") == 0
        low = soundfile.read(f"{name}/{name}_low.wav")[0]
        assert np.square(low).mean() == pytest.approx(np.square(gain * truth[0]).mean(), rel=0.02)
    assert call("loud.wav", "query=low", "out=pcm") == 0
    assert "turned down by" in capsys.readouterr().out
    files = [soundfile.read(f"pcm/loud_{stem}.wav")[0] for stem in ("low", "residual")]
    assert max(np.abs(file).max() for file in files) == pytest.approx(1.0, abs=1e-3)
    level = 10 ** (json.loads((folder / "pcm/report.json").read_text())["turned_down_db"] / 20)
    assert np.abs(sum(files) / level - 5 * truth.sum(axis=0)).max() < 1e-3


def test_segments_begin_where_the_model_cuts_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of places of 16 frames, all or nothing in each: in segments, it is the model as a whole."""

    class Placing(Splitter):
        period = 16

        def extract(self, mixture: Tensor, query: Tensor, *, noise: Tensor, **options: object) -> Tensor:
            padded = torch.nn.functional.pad(mixture, (0, -mixture.shape[1] % 2720))
            places = padded.reshape(len(mixture), -1, 2720)
            first, second = places.square().mean(-1), places[..., :1360].square().mean(-1)
            kept = (second > first).repeat_interleave(2720, dim=1)[:, : mixture.shape[1]]
            return torch.stack((mixture * kept, mixture * ~kept), dim=1)

    monkeypatch.setattr(separate, "load_extractor", lambda run, weights: Placing())
    noise = np.random.default_rng(0).standard_normal((16_000 * 5, 1)) * 0.1
    soundfile.write("a.wav", noise, 16_000)
    found = []
    for seconds in (0.1, 0.77, 1.3, 60):
        assert call("a.wav", "query=low", "out=o", f"segment={seconds}", "overlap=0.3") == 0
        found.append(soundfile.read("o/a_low.wav")[0])
    assert 0.2 < (found[-1] != 0).mean() < 0.8
    for wave in found[:-1]:
        assert np.abs(wave - found[-1]).max() <= 2**-15


def test_a_span_silences_the_rest(folder: Path) -> None:
    soundfile.write("a.wav", tones(RATE * 3, 1).sum(axis=0), RATE)
    assert call("a.wav", "query=low", "out=o", "span=1-2") == 0
    low, rest = (soundfile.read(f"o/a_{stem}.wav")[0] for stem in ("low", "residual"))
    assert np.abs(low[: RATE - 1000]).max() == 0
    assert np.abs(low[2 * RATE + 1000 :]).max() == 0
    assert np.abs(low[RATE + 1000 : 2 * RATE - 1000]).max() > 0.25
    assert np.abs(low + rest - soundfile.read("a.wav")[0]).max() < 2 * 2**-15
    gate = span_gate(0, 300, 100, parse_spans("0.5-1, 2-9", 3.0))
    assert torch.equal(gate.nonzero()[:, 0], torch.tensor([*range(50, 101), *range(200, 300)]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["query=low"], "mix is not given"),
        (["a.wav"], 'query="a dog barking"'),
        (["a.wav", "query="], "empty"),
        (["a.wav", "query=  "], "empty"),
        (["a.wav", "query=" + "dog " * 300], "1200 characters"),
        (["a.wav", "query=" + "d " * 300], "word pieces"),
        (["a.wav", "query=low", "negative=rain"], "guidance"),
        (["absent.wav", "query=low"], "No such file"),
        (["text.wav", "query=low"], "not a sound file"),
        (["a.wav", "b.wav", "query=low"], "'b.wav' is not a setting"),
        (["a.wav", "query=low", "span=3"], "span=3"),
        (["a.wav", "query=low", "span=2-1"], "span=2-1"),
        (["a.wav", "query=low", "span=7-8"], "within the file"),
        (["a.wav", "query=low", "steps=0"], "steps=0"),
        (["a.wav", "query=low", "candidates=4", "steps=2"], "stage=encoder"),
        (["a.wav", "query=low", "candidates=4"], "steps=2 or more"),
        (["a.wav", "exemplar=b.wav"], "stage=encoder"),
        (["a.wav", "query=low", "encoder=nowhere"], "config.yaml"),
        (["a.wav", "query=low", "overlap=0.7"], "overlap=0.7"),
        (["a.wav", "query=low", "segment=0"], "segment=0"),
        (["a.wav", "query=low", "format=mp3"], "format=mp3"),
        (["a.wav", "query=low", "format=flac", "encoding=float"], "encoding=float"),
        (["a.wav", "query=low", "reference=a.wav", "reference=a.wav"], "2 references"),
        (["a.wav", "query=low", "reference=b.wav"], "must match the mixture"),
        (["a.wav", "query=low", "quary=low"], "did you mean query"),
        (["a.wav", "query=low", "out=text.wav"], "cannot be made"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write("a.wav", tones(4410, 1).sum(axis=0), RATE)
    soundfile.write("b.wav", tones(441, 1).sum(axis=0), RATE)
    Path("text.wav").write_text("no sound")
    assert call(*arguments) != 0
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not list(folder.glob("separated/*/*.wav"))


def test_without_a_run_the_demo_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("a.wav", tones(4410, 1).sum(axis=0), RATE)
    assert main(["separate", "audio", "a.wav", "query=low"]) == 2
    assert "rectiflow demo audio" in capsys.readouterr().err


def test_the_null_query_is_a_stem_of_its_own(folder: Path) -> None:
    """Nothing asked is a vector of zeros, for which the stand-in model gives what is above 1 kHz."""
    truth = tones(RATE)
    soundfile.write("a.wav", truth.sum(axis=0), RATE)
    assert call("a.wav", "query=low", "unasked=true", "out=o") == 0
    for stem, wave in (("low", truth[0]), ("unasked", truth[1])):
        error = (soundfile.read(f"o/a_{stem}.wav")[0] - wave)[2000:-2000]
        assert np.square(error).sum() < 1e-3 * np.square(wave).sum()
    report = json.loads((folder / "o/report.json").read_text())["stems"]
    assert [stem["name"] for stem in report] == ["low", "unasked", "residual"]
    assert call("a.wav", "unasked=true", "out=alone") == 0
    assert sorted(path.name for path in Path("alone").glob("*.wav")) == ["a_residual.wav", "a_unasked.wav"]


def test_an_encoder_judges_chooses_and_listens_to_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in encoder hears one thing: whether there is more below 1 kHz than above."""

    class Ear(SoundTextEncoder):
        def forward(self, waves: Tensor) -> Tensor:
            power = torch.fft.rfft(waves).abs().square()
            below = power[:, : int(1000 * waves.shape[1] / 16000)].sum(dim=1) > power.sum(dim=1) / 2
            low, other = (HashedEncoder().encode([name]).pooled[0] for name in ("low", "high"))
            return torch.where(below[:, None], low, other)

    class Unsteady(Splitter):
        """Right in one attempt of two, as its first noise has it."""

        def extract(self, mixture: Tensor, query: Tensor, *, noise: Tensor, **options: object) -> Tensor:
            stems = super().extract(mixture, query, noise=noise)
            return stems if float(noise[0, 0, 0, 0, 0]) > 0 else stems.flip(1)

    ear = Ear(384, torch.Generator().manual_seed(0))
    monkeypatch.setattr(asking, "find_run", lambda root, stage="flow": root)
    monkeypatch.setattr(asking, "read_config", lambda run: OmegaConf.create({"data": {"text": "hashed"}}))
    monkeypatch.setattr(asking, "load_encoder", lambda run: ear)
    monkeypatch.setattr(separate, "load_extractor", lambda run, weights: Unsteady())
    truth = tones(RATE)
    soundfile.write("a.wav", truth.sum(axis=0), RATE)
    soundfile.write("hum.wav", truth[0, : RATE // 2], RATE)
    assert (
        call("a.wav", "query=low", "query=low", "exemplar=hum.wav", "candidates=4", "steps=2", "out=o", "segment=0.25")
        == 0
    )
    for stem in ("low", "low_2", "hum"):
        found = soundfile.read(f"o/a_{stem}.wav")[0]
        error = (found - truth[0])[2000:-2000]
        assert np.square(error).sum() < 1e-3 * np.square(truth[0]).sum()
    report = json.loads((folder / "o/report.json").read_text())["stems"]
    assert [stem["name"] for stem in report] == ["low", "low", "like hum.wav", "residual"]
    expected = torch.sigmoid(ear.log_scale.exp() + ear.offset).item()
    assert [stem["presence"] for stem in report] == [pytest.approx(expected, rel=1e-3)] * 3 + [None]


def test_a_missing_text_encoder_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(run: Path, weights: str) -> None:
        raise MissingDependency("the text encoder minilm is not here")

    monkeypatch.setattr(separate, "load_extractor", missing)
    soundfile.write("a.wav", tones(4410, 1).sum(axis=0), RATE)
    assert call("a.wav", "query=low") == 1
    assert capsys.readouterr().err.strip() == "rectiflow: the text encoder minilm is not here"


def test_the_newest_run_is_taken(tmp_path: Path) -> None:
    assert find_run(tmp_path) is None
    for age, (name, stage) in enumerate((("old", "flow"), ("demo/base", "flow"), ("encoder", "encoder"))):
        saved = tmp_path / "audio" / name / "checkpoints" / "step-00000001"
        saved.mkdir(parents=True)
        (tmp_path / "audio" / name / "config.yaml").write_text(f"domain: audio\nstage: {stage}\n")
        os.utime(saved, (1e9 + age, 1e9 + age))
    (tmp_path / "audio" / "fresh").mkdir()
    (tmp_path / "audio" / "fresh" / "config.yaml").write_text("domain: audio\nstage: flow\n")
    assert find_run(tmp_path) == tmp_path / "audio" / "demo" / "base"
    assert find_run(tmp_path, "encoder") == tmp_path / "audio" / "encoder"


def test_names_of_files() -> None:
    texts = ["a dog barking", "Rain", "the rain!", "rain", "Residual", "?!", "ein Hund, der bellt", "../x/y"]
    assert file_names(texts) == [
        "dog_barking",
        "rain",
        "rain_2",
        "rain_3",
        "residual_2",
        "stem",
        "ein_hund_der_bellt",
        "x_y",
    ]


@pytest.mark.slow
def test_ten_minutes_of_stereo_in_constant_memory(folder: Path) -> None:
    frames = RATE * 600
    chance = np.random.default_rng(0)
    with soundfile.SoundFile("long.wav", "w", RATE, 2, subtype="PCM_16") as file:
        for _ in range(600):
            file.write(0.1 * chance.standard_normal((RATE, 2)))
    assert call("long.wav", "query=low", "query=high", "span=0-1", "out=warm") == 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert call("long.wav", "query=low", "query=high", "out=o") == 0
    scale = 1024 if sys.platform != "darwin" else 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale < 500e6
    info = soundfile.info("o/long_low.wav")
    assert (info.samplerate, info.channels, info.frames) == (RATE, 2, frames)
