"""Mixtures that are taken apart altogether: speakers that differ, stems in step or not, their figures, and the verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from rectiflow.cli import main
from rectiflow.config import compose_training
from rectiflow.domain import build, load_spec
from rectiflow.errors import ConfigError, DataError
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.trained import new_network
from rectiflow_audio import separate, separation_report
from rectiflow_audio.domain import Audio
from rectiflow_audio.extracting import Extractor
from rectiflow_audio.layout import Layout, layout_of
from rectiflow_audio.parts import PartsMixtures
from rectiflow_audio.representation import Spectra
from rectiflow_audio.speakers import LibrarySpeakers, SyntheticSpeakers, mixed_voices
from rectiflow_audio.stems import StemTracks
from rectiflow_audio.text import NoText

SPEC = load_spec("audio")
SMALL = ["model=tiny", "model.widths=[16,32]", "data.held_out=4", "data.seconds=0.25"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "audio-cache"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pitch_of(wave: Tensor) -> float:
    return float(torch.fft.rfft(wave).abs().argmax()) * 16_000 / len(wave)


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """Ten speakers, told apart by pitch, with two files each; five to train on, three for validation and two to test."""
    rows = ["path,kind,group,split"]
    for number in range(10):
        split = "train" if number < 5 else "validation" if number < 8 else "test"
        for take in range(2):
            wave = 0.5 * np.sin(2 * np.pi * (200 + 100 * number) * np.arange(16_000) / 16_000)
            soundfile.write(tmp_path / f"{number}-{take}.wav", wave, 16_000)
            rows.append(f"{number}-{take}.wav,speech,speaker {number},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Tracks whose stems are noises of levels that tell the track."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 1)):
        for number in range(count):
            folder = tmp_path / part / f"track {number}"
            folder.mkdir(parents=True)
            for stem in ("vocals", "drums", "bass"):
                wave = 0.02 * (number + 1) * generator.choice([-1.0, 1.0], 8000)
                soundfile.write(folder / f"{stem}.wav", wave, 16_000, subtype="FLOAT")
    return tmp_path


def test_a_mixture_never_holds_a_speaker_twice(voices: Path) -> None:
    speakers = LibrarySpeakers(voices, "speech")
    for split, count, allowed in (("train", 3, range(5)), ("validation", 2, range(5, 8))):
        for seed in range(12):
            heard = [round((pitch_of(wave) - 200) / 100) for wave in speakers.voices(count, 8000, split, seeded(seed))]
            assert len(set(heard)) == count
            assert set(heard) <= set(allowed)
    with pytest.raises(ConfigError, match="there are 3 speakers for validation"):
        speakers.voices(4, 8000, "validation", seeded())
    with pytest.raises(DataError, match="no readable sound of kind 'song'; there are speech"):
        LibrarySpeakers(voices, "song")


def test_synthetic_speakers_differ_and_held_out_ones_are_new() -> None:
    speakers = SyntheticSpeakers(8.0)
    found = speakers.voices(3, 4000, "train", seeded())
    assert torch.equal(found, speakers.voices(3, 4000, "train", seeded()))
    assert not torch.equal(found, speakers.voices(3, 4000, "validation", seeded()))
    likeness = torch.nn.functional.normalize(found, dim=1)
    assert ((likeness @ likeness.T) - torch.eye(3)).abs().max() < 0.5


def test_voices_lie_within_the_range_of_levels(voices: Path) -> None:
    speakers = LibrarySpeakers(voices, "speech")
    for seed in range(10):
        parts = mixed_voices(speakers, 2, (-5.0, 5.0), 4000, "train", seeded(seed))
        levels = 10 * parts.square().mean(1).log10()
        assert abs(float(levels[1] - levels[0])) <= 5.01
        assert float(levels.max()) == pytest.approx(-20, abs=0.01)
    levels = 10 * mixed_voices(speakers, 3, (4.0, 4.0), 4000, "train", seeded()).square().mean(1).log10()
    assert torch.allclose(levels - levels[0], torch.tensor([0.0, 4.0, 4.0]), atol=0.01)


def test_mixtures_are_functions_of_their_numbers(voices: Path) -> None:
    speakers = LibrarySpeakers(voices, "speech")

    def draw(samples: int, split: str, generator: torch.Generator) -> Tensor:
        return 20 * mixed_voices(speakers, 2, (0.0, 0.0), samples, split, generator)

    mixtures = PartsMixtures(draw, ("speech", "speech"), 0.25, count=5, split="validation")
    assert len(mixtures) == 5
    assert torch.equal(mixtures[3].parts, mixtures[3].parts)
    assert not torch.equal(mixtures[3].parts, mixtures[4].parts)
    assert mixtures[0].parts.shape == (2, 4000)
    assert float(mixtures[0].parts.sum(0).abs().amax()) <= 0.991
    with pytest.raises(IndexError):
        mixtures[5]
    with pytest.raises(ConfigError, match="no length"):
        len(PartsMixtures(draw, ("a", "b"), 1.0))


def test_stems_come_in_step_or_from_anywhere(music: Path) -> None:
    tracks = StemTracks(music, ["vocals", "drums", "bass"])
    for seed in range(6):
        levels = tracks.remixed(0.0, 2000, "train", seeded(seed)).abs().amax(1)
        assert torch.allclose(levels, levels[:1].expand(3), atol=1e-5)  # one track's
        held = tracks.remixed(1.0, 2000, "validation", seeded(seed)).abs().amax(1)
        assert torch.allclose(held, held[:1].expand(3), atol=1e-5)
    mixed = [tracks.remixed(1.0, 2000, "train", seeded(seed)).abs().amax(1) for seed in range(6)]
    assert all(float((levels - levels[0]).abs().max()) > 1e-3 for levels in mixed)


def test_layouts() -> None:
    assert layout_of({"voices": [2, 2]}) == Layout(("target", "residual"))
    assert layout_of({"speakers": 3}) == Layout(("speaker 1", "speaker 2", "speaker 3"), asked=False, ordered=False)
    assert layout_of({"stems": ["a", "b"], "shuffled": 0.5}) == Layout(("a", "b"), asked=False)


@pytest.mark.parametrize("recipe", ["speakers", "fixed_stems"])
def test_parts_train_and_are_judged(recipe: str, music: Path, tmp_path: Path) -> None:
    data = ["data.pool=4", "data.speakers=3"]
    if recipe == "fixed_stems":
        data = [f"data.path='{music}'", "data.stems=[vocals,drums,bass]"]
    domain = build(SPEC, compose_training(SPEC, [f"recipe={recipe}", *SMALL, *data]))
    assert isinstance(domain, Audio)
    network = new_network(domain, 0)
    batch = domain.dataset("train").__getitems__([0, 1])
    assert isinstance(batch.x1, Tensor)
    assert batch.x1.shape == (2, 3, 2, 256, 24)
    task = FlowTask(domain, network, FlowMatching(), domain.config.sampling)
    loss, _ = task.loss(network, batch, seeded())
    torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    cond = domain.conditions(4, seeded())
    turned = domain.spectra.encode(domain.held_out.waves[:, [1, 2, 0]])
    figures = domain.evaluate(turned, cond)
    assert (figures["si_sdri"] > 60) == (recipe == "speakers")  # an order counts only where there is one
    assert {metric.name for metric in domain.metrics} >= set(figures)
    assert "si_sdri_wrong_query" not in {metric.name for metric in domain.metrics}
    floor, baseline = domain.references(4, 0)
    assert floor.metrics["si_sdri"] > 3
    assert baseline.metrics["si_sdri"] == pytest.approx(0, abs=1e-6)
    assert len(domain.save(turned, cond, tmp_path)) == 16
    assert domain.view(turned, cond).count("<audio") == 7 * 4
    assert domain.picture(turned, cond).height > 0
    with pytest.raises(ConfigError, match="asked nothing"):
        domain.conditions(2, seeded(), query="a dog")
    with pytest.raises(ConfigError, match="where queries are asked"):
        domain.stage("encoder")


class Halves:
    """Takes a mixture apart at 1 kHz, into the two in an order that changes with every call."""

    spectra, text, layout, device = Spectra(), NoText(), layout_of({"speakers": 2}), "cpu"
    period = 1

    def __init__(self) -> None:
        self.calls = 0

    noise_shape = Extractor.noise_shape

    def extract(self, mixture: Tensor, query: Tensor | None, *, noise: Tensor, **options: object) -> Tensor:
        assert query is None
        spectrum = torch.fft.rfft(mixture)
        spectrum[:, int(1000 * mixture.shape[1] / 16000) :] = 0
        low = torch.fft.irfft(spectrum, n=mixture.shape[1])
        self.calls += 1
        both = torch.stack([low, mixture - low], dim=1)
        return both if self.calls % 2 else both.flip(1)


def test_the_verb_keeps_speakers_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(separate, "load_extractor", lambda run, weights: Halves())
    monkeypatch.setattr(separation_report, "stacked", lambda *arguments: Image.new("RGB", (1, 1)))
    time = np.arange(48_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * 300 * time), 0.2 * np.sin(2 * np.pi * 3000 * time)]
    soundfile.write("talk.wav", sum(tones), 16_000, subtype="PCM_24")
    assert main(["separate", "audio", "run=x", "talk.wav", "segment=0.5", "encoding=pcm24"]) == 0
    files = {path.stem: soundfile.read(path)[0] for path in (tmp_path / "separated" / "talk").glob("*.wav")}
    assert set(files) == {"talk_speaker_1", "talk_speaker_2", "talk_residual"}
    found = [files["talk_speaker_1"], files["talk_speaker_2"]]
    for tone, wave in zip(tones, found, strict=True):
        assert np.square(wave - tone)[1000:-1000].mean() < 1e-3 * np.square(tone).mean()
    assert np.abs(sum(found) - sum(tones)).max() < 1e-4
    assert "speaker 1, speaker 2" in capsys.readouterr().out
    assert main(["separate", "audio", "run=x", "talk.wav", "query=a dog"]) == 2
    assert "asked nothing" in capsys.readouterr().err
    assert main(["separate", "audio", "run=x", "talk.wav", "reference=talk.wav"]) == 2
    assert "no order" in capsys.readouterr().err
