"""Mel latents: trained or found, normalised, decoded by masks, and a flow on them from data to files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectiflow.batch import Batch
from rectiflow.config import compose_training
from rectiflow.domain import build, load_spec
from rectiflow.errors import CheckpointCorrupt, ConfigError
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.trained import new_network
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow_audio import mel_latent
from rectiflow_audio.domain import Audio
from rectiflow_audio.extracting import Extractor
from rectiflow_audio.mel_latent import MelLatent
from rectiflow_audio.metrics import si_sdr_improvement

SPEC = load_spec("audio")
SMALL = ["recipe=mel_latent", "data.pool=2", "data.held_out=4", "data.seconds=0.25", "model.widths=[16,32]"]
QUICK = ["spectra.width=16", "spectra.blocks=1", "spectra.training.steps=2", "spectra.training.batch=2"]
TRAINING = {"steps": 2, "batch": 2, "warmup": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "audio-cache"))


class Noises:
    """Stems of noise, whose colour and level vary."""

    def __len__(self) -> int:
        return 64

    def __getitems__(self, indices: list[int]) -> Batch:
        waves = [torch.randn(2, 4000, generator=torch.Generator().manual_seed(index)).cumsum(1) for index in indices]
        return Batch(x1=torch.stack(waves) * 0.002)


def fitted(**settings: object) -> MelLatent:
    latent = MelLatent(width=16, blocks=1, training=TRAINING, **settings)  # type: ignore[arg-type]
    latent.fit(Noises, "noises")
    return latent


def test_it_is_trained_once_and_then_found(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fitted()
    monkeypatch.setattr(mel_latent, "fit", lambda *arguments: pytest.fail("trained again"))
    again = fitted()
    wave = Noises().__getitems__([3]).x1
    assert isinstance(wave, Tensor)
    assert torch.equal(first.encode(wave), again.encode(wave))
    with pytest.raises(pytest.fail.Exception):
        fitted(channels=4)


def test_codes_are_normalised() -> None:
    waves = Noises().__getitems__(list(range(64))).x1
    assert isinstance(waves, Tensor)
    codes = fitted().encode(torch.cat([waves, waves.sum(1, keepdim=True)], dim=1))
    assert codes.shape[:3] == (64, 3, 8)
    by_channel = codes.movedim(2, 0).flatten(1)
    assert by_channel.mean(1).abs().max() < 1e-4
    assert (by_channel.std(1) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("length", [1, 639, 640, 641, 4000])
def test_a_frame_every_hop(length: int, generator: torch.Generator) -> None:
    latent, wave = fitted(), 0.1 * torch.randn(2, length, generator=generator)
    assert latent.encode(wave).shape == (2, *latent.shape(length))
    assert latent.shape(length) == (8, 16, 1 + length // latent.hop)
    heard = latent.hear(wave)
    assert torch.equal(latent.heard(heard, length), wave)
    states = torch.randn(2, 3, *latent.shape(length), generator=generator)
    found = latent.waves(states, heard, length)
    assert found.shape == (2, 3, length)
    assert torch.allclose(found.sum(1), wave, atol=1e-5)


def test_levels_go_through_the_codes(generator: torch.Generator) -> None:
    """With an autoencoder that forgets nothing, decoding is the mask of the exact levels."""
    latent = fitted()
    waves = 0.1 * torch.randn(2, 2, 4000, generator=generator)
    waves[:, 0] = waves[:, 0].cumsum(-1) * 0.05
    known = latent.mel.levels(waves)
    latent.autoencoder.decode = lambda codes: mel_latent.padded(known).flatten(0, 1)  # type: ignore[method-assign]
    heard = latent.hear(waves.sum(1))
    found = latent.waves(latent.encode(waves), heard, 4000)
    assert torch.allclose(found, latent.mel.masked(known, waves.sum(1)), atol=1e-6)
    assert float(si_sdr_improvement(found[:, 0], waves[:, 0], waves.sum(1)).mean()) > 3


def audio(*overrides: str) -> Audio:
    domain = build(SPEC, compose_training(SPEC, [*SMALL, *QUICK, *overrides]))
    assert isinstance(domain, Audio)
    return domain


def test_a_flow_of_latents_trains_and_extracts(tmp_path: Path) -> None:
    domain = audio()
    network = new_network(domain, 0)
    batch = domain.dataset("train").__getitems__([0, 1])
    task = FlowTask(domain, network, FlowMatching(condition_drop=0.1), domain.config.sampling)
    loss, terms = task.loss(network, batch, torch.Generator().manual_seed(0))
    torch.autograd.backward(loss)
    assert set(terms) == {"matching", "distortion"}
    assert all(parameter.grad is not None for parameter in network.parameters())
    cond = domain.conditions(2, torch.Generator().manual_seed(0))
    truth = domain.spectra.encode(domain.held_out.waves[:2])
    assert set(domain.evaluate(truth, cond)) >= {"si_sdri", "improved"}
    assert len(domain.save(truth, cond, tmp_path)) == 6
    extractor = Extractor(domain.flow(network), domain.spectra, domain.text)
    mixture = 0.1 * torch.randn(2, 1001, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(extractor.noise_shape(2, 1001), generator=torch.Generator().manual_seed(2))
    found = extractor.extract(mixture, extractor.queries(["a dog", "rain"]), noise=noise, steps=2)
    assert torch.allclose(found.sum(1), mixture, atol=1e-5)


def test_the_autoencoder_is_a_stage_whose_run_can_be_named(tmp_path: Path) -> None:
    domain = audio()
    task, data = domain.stage("autoencoder")
    fit(task, data, TrainingOptions(steps=1, batch=2, tensorboard=False), folder=tmp_path / "run")
    named = audio(f"spectra.run='{tmp_path / 'run'}'")
    waves = domain.held_out.waves
    assert not torch.equal(named.spectra.encode(waves), domain.spectra.encode(waves))
    with pytest.raises(CheckpointCorrupt, match="another autoencoder"):
        audio(f"spectra.run='{tmp_path / 'run'}'", "spectra.channels=4").spectra  # noqa: B018 - read at first sight


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["model=tiny"], "model=latent with"),
        (["spectra=compressed"], "model=latent with"),
        (["spectra.mels=66"], "mels that"),
        (["model.widths=[8,8,8,8,8,8]", "model.heads=2"], "fewer widths"),
        (["source=consistent"], "spectra=linear"),
    ],
)
def test_what_does_not_fit_together(wrong: list[str], says: str) -> None:
    settings = [
        *SMALL[:4],
        *([] if wrong == ["spectra=compressed"] else QUICK),
        *wrong,
    ]
    with pytest.raises(ConfigError, match=says):
        new_network(build(SPEC, compose_training(SPEC, settings)), 0)
