"""The domain: batches, held-out mixtures, figures and controls, files and pages, and a mixture learnt by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.config import compose_training
from rectiflow.domain import build, load_spec
from rectiflow.drawing import Drawn, carry, draw_sources
from rectiflow.errors import ConfigError
from rectiflow.matching import FlowMatching, FlowTask
from rectiflow.trained import new_network
from rectiflow.training.muon import Muon
from rectiflow_audio.data import TrainingMixtures
from rectiflow_audio.domain import Audio
from rectiflow_audio.extracting import Extractor
from rectiflow_audio.files import write
from rectiflow_audio.metrics import si_sdr_improvement
from rectiflow_audio.representation import LEVEL

SPEC = load_spec("audio")
SMALL = ["model=tiny", "model.widths=[16,32]", "data.pool=2", "data.held_out=4", "data.seconds=0.25"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "audio-cache"))


def audio(*overrides: str) -> Audio:
    domain = build(SPEC, compose_training(SPEC, [*SMALL, *overrides]))
    assert isinstance(domain, Audio)
    return domain


def test_training_batches_are_functions_of_their_numbers() -> None:
    data = audio().dataset("train")
    first, again, other = (data.__getitems__(numbers) for numbers in ([5, 6], [5, 6], [7, 6]))
    assert isinstance(first.x1, Tensor)
    assert isinstance(again.x1, Tensor)
    assert isinstance(other.x1, Tensor)
    assert torch.equal(first.x1, again.x1)
    assert torch.equal(first.x1[1], other.x1[1])
    assert not torch.equal(first.x1[0], other.x1[0])
    assert first.x1.shape == (2, 2, 2, 256, 24)
    assert first.cond["mixture"].shape == (2, 1, 2, 256, 24)
    assert first.extra["waves"].shape == (2, 2, 4000)


def test_the_mixture_is_that_of_its_stems() -> None:
    domain = audio()
    batch = domain.dataset("train").__getitems__([0, 1, 2])
    heard = domain.spectra.decode(batch.cond["mixture"][:, 0], 4000)
    assert torch.allclose(heard, batch.extra["waves"].sum(1), atol=1e-5)
    assert isinstance(batch.x1, Tensor)
    assert torch.allclose(domain.waves(batch.x1, batch.cond), batch.extra["waves"], atol=1e-5)


def test_an_absent_kind_is_asked_for_and_not_there() -> None:
    domain = audio("data.absent=1.0")
    data = domain.dataset("train")
    assert isinstance(data, TrainingMixtures)
    assert (data.__getitems__([0, 1]).extra["waves"][:, 0] == 0).all()
    mixture = data.mixtures[0]
    assert mixture.kind not in mixture.kinds


def test_held_out_mixtures_come_at_one_level_and_are_not_taught() -> None:
    domain = audio()
    generator = torch.Generator().manual_seed(0)
    cond = domain.conditions(6, generator)
    assert cond["item"].tolist() == [0, 1, 2, 3, 0, 1]
    levels = domain.held_out.waves.sum(1).square().mean(1).sqrt()
    assert torch.allclose(levels, torch.full_like(levels, LEVEL))
    taught = domain.teaching_conditions(4, generator)
    gaps = (taught["mixture"][:, None] - cond["mixture"][None, :4]).flatten(2).norm(dim=2)
    assert gaps.min() > 1


def test_a_query_may_be_asked_for() -> None:
    domain = audio()
    generator = torch.Generator().manual_seed(0)
    cond = domain.conditions(4, generator, query=["rain falling", "a dog"])
    assert torch.equal(cond["query"][0], domain.text.encode(["rain falling"]).pooled[0])
    assert torch.equal(cond["query"][1], cond["query"][3])
    assert not torch.equal(cond["query"][0], cond["query"][1])


def test_figures_of_the_truth_the_mixture_and_the_mask() -> None:
    domain = audio()
    cond = domain.conditions(4, torch.Generator().manual_seed(0))
    truth = domain.spectra.encode(domain.held_out.waves)
    found = domain.evaluate(truth, cond)
    assert found["si_sdri"] > 60
    assert found["improved"] == 1
    assert found["fd_logmel"] < 1e-3
    snrs = [domain.held_out.items[number].snr for number in range(4)]
    assert ("si_sdri_at_-5..0" in found) == any(snr < 0 for snr in snrs)
    assert ("si_sdri_at_0..5" in found) == any(snr >= 0 for snr in snrs)
    assert set(found) <= {metric.name for metric in domain.metrics}
    floor, baseline = domain.references(4, 0)
    assert floor.metrics["si_sdri"] > 10
    assert baseline.metrics["si_sdri"] == pytest.approx(0, abs=1e-9)


def test_controls_ask_for_other_sounds() -> None:
    domain = audio()
    cond = domain.conditions(4, torch.Generator().manual_seed(0))
    truth = domain.spectra.encode(domain.held_out.waves)
    asked: list[Tensor] = []

    def solve(x0: Any, given: dict[str, Tensor]) -> Drawn:
        asked.append(given["query"])
        return Drawn(truth[: len(given["item"])], given, 1, 0.0)

    _, found = domain.measure(solve, truth, cond, 0)
    assert len(asked) == 4
    assert not any(torch.equal(asked[0], other) for other in asked[1:])
    # What is handed back is the truth whatever was asked for, so the wrong query does as well as the right one.
    assert found["si_sdri_wrong_query"] == pytest.approx(found["si_sdri"], rel=1e-6)
    assert found["si_sdri_paraphrase"] == pytest.approx(found["si_sdri"], rel=1e-6)
    waves = domain.held_out.waves
    share = 10 * (waves[:, 0].square().sum(1) / waves.sum(1).square().sum(1)).log10().mean()
    assert found["false_extraction"] == pytest.approx(float(share), abs=1e-3)


def test_paraphrases_ask_for_the_same_mixtures() -> None:
    domain = audio("data.held_out=12")
    for number in range(12):
        plain, new = domain.mixes.held_out[number], domain.mixes.paraphrased[number]
        assert torch.equal(plain.mixture, new.mixture)
        assert plain.kind == new.kind
        assert new.caption not in domain.mixes.sounds.captions(plain.kind)


def test_only_some_kinds_are_asked_for() -> None:
    domain = audio("data.targets=[speech,dog]", "data.held_out=20")
    for mixture in domain.held_out.items:
        assert mixture.kind in ("speech", "dog")
        assert 2 <= len(mixture.kinds) <= 3
    assert {mixture.kind for mixture in domain.held_out.items} == {"speech", "dog"}
    with pytest.raises(ConfigError, match="piano"):
        audio("data.targets=[piano]").mixes  # noqa: B018 - they are made at first sight


def test_music_is_asked_for_by_the_names_of_its_stems(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 16), ("test", 1)):
        for number in range(count):
            folder = tmp_path / part / f"track {number}"
            folder.mkdir(parents=True)
            for stem in ("vocals", "drums", "bass", "other"):
                write(folder / f"{stem}.wav", 0.1 * torch.randn(1, 8000, generator=generator), 16000)
    settings = [*SMALL[:2], "recipe=stems", f"data.path='{tmp_path}'", "data.held_out=4", "data.seconds=0.25"]
    domain = build(SPEC, compose_training(SPEC, settings))
    assert isinstance(domain, Audio)
    assert domain.dataset("train").__getitems__([0, 1]).extra["waves"].shape == (2, 2, 4000)
    assert {kind for item in domain.held_out.items for kind in item.kinds} <= {"vocals", "drums", "bass", "other"}


def test_stages() -> None:
    task, data = audio().stage("encoder")
    assert len(data) > 1
    assert task.network is not None
    with pytest.raises(ConfigError, match=r"allowed: flow, encoder.*autoencoder"):
        audio().stage("vocoder")


def test_files_pictures_and_pages(tmp_path: Path) -> None:
    domain = audio()
    count, cond = domain.picture_conditions(torch.Generator().manual_seed(0))
    x = domain.spectra.encode(domain.held_out.waves)[cond["item"]]
    files = domain.save(x, cond, tmp_path)
    assert len(files) == 3 * count
    assert all(path.stat().st_size > 8000 for path in files)
    picture = domain.picture(x, cond)
    assert picture.width > picture.height / 2
    page = domain.view(x, cond)
    assert page.count("<audio") == 4 * count


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("mixture", "tiny"),
        ("noise", "tiny"),
        ("regression", "tiny"),
        ("regression", "conv_tasnet"),
        ("mixture", "base"),
    ],
)
def test_every_start_and_model_trains_and_extracts(source: str, model: str) -> None:
    small = {
        "conv_tasnet": ["model.layers=2"],
        "base": ["model.depth=1", "model.width=64", "model.heads=2"],
        "tiny": ["model.widths=[16,32]"],
    }
    starts = {name: [f"source={name}"] for name in ("mixture", "noise")} | {"regression": ["recipe=regression"]}
    domain = build(SPEC, compose_training(SPEC, [*SMALL[2:], *starts[source], f"model={model}", *small[model]]))
    assert isinstance(domain, Audio)
    network = new_network(domain, 0)
    batch = domain.dataset("train").__getitems__([0, 1])
    task = FlowTask(domain, network, FlowMatching(condition_drop=0.1), domain.config.sampling)
    loss, terms = task.loss(network, batch, torch.Generator().manual_seed(0))
    torch.autograd.backward(loss)
    assert set(terms) == {"matching", "distortion"}
    assert all(parameter.grad is not None for parameter in network.parameters())
    extractor = Extractor(domain.flow(network), domain.spectra, domain.text)
    mixture = 0.1 * torch.randn(2, 1001, generator=torch.Generator().manual_seed(1))
    query = extractor.queries(["a dog", "rain"])
    noise = torch.randn(extractor.noise_shape(2, 1001), generator=torch.Generator().manual_seed(2))
    first, again = (extractor.extract(mixture, query, noise=noise, steps=2) for _ in range(2))
    assert first.shape == (2, 2, 1001)
    assert torch.equal(first, again)
    # Four frames a place, halved once; two a place; and eight hops of 170 samples hold 85 steps of 16.
    assert extractor.period == {"tiny": 8, "base": 2, "conv_tasnet": 8}[model]
    assert torch.allclose(first.sum(1), mixture, atol=1e-6)
    steered = extractor.extract(mixture, query, noise=noise, steps=2, guidance=2.0, negative=query.flip(0))
    assert steered.shape == first.shape
    assert extractor.extract(mixture, None, generator=torch.Generator().manual_seed(0), steps=1).isfinite().all()


def test_consistent_stems_sum_to_the_mixture() -> None:
    domain = audio("source=consistent", "spectra=linear")
    network = new_network(domain, 0)
    flow = domain.flow(network)
    generator = torch.Generator().manual_seed(0)
    cond = domain.conditions(2, generator)
    drawn = carry(flow, draw_sources(domain, flow, cond, 2, generator), cond, method="euler", steps=3)
    waves = domain.spectra.decode(drawn.x, 4000)  # without the projection on the mixture that `waves` ends with
    assert torch.allclose(waves.sum(1), domain.held_out.waves[:2].sum(1), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["source=consistent"], "spectra=linear"),
        (["predicts=velocity"], "predicts=data"),
        (["source=regression", "objective.until=1"], "recipe=regression"),
        (["source=regression", "weight=plain"], "recipe=regression"),
    ],
)
def test_what_does_not_fit_together(wrong: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        audio(*wrong)


def test_a_negative_query_needs_guidance() -> None:
    domain = audio()
    extractor = Extractor(domain.flow(new_network(domain, 0)), domain.spectra, domain.text)
    query = extractor.queries(["a dog"])
    with pytest.raises(ConfigError, match="guidance"):
        extractor.extract(torch.zeros(1, 1000), query, negative=query)
    with pytest.raises(ConfigError, match="noise has shape"):
        extractor.extract(torch.zeros(1, 1000), query, noise=torch.zeros(1, 2, 2, 256, 5))


def test_what_is_absent_could_not_be_called_by_another_name(tmp_path: Path) -> None:
    """A guitar may be music: asked for music, a mixture that holds one has an answer."""
    for pitch, kind in enumerate(("music", "guitar", "speech", "animal")):
        (tmp_path / kind).mkdir()
        for number in range(5):
            wave = torch.sin(torch.arange(8000) * (0.1 + 0.1 * pitch + 0.01 * number))
            write(tmp_path / kind / f"{number}.wav", 0.5 * wave[None].float(), 16_000)
    library = [
        f"data.path={tmp_path}",
        "data.seconds=0.25",
        "data.held_out=40",
        "data.voices=[2,2]",
        "data.text=hashed",
    ]
    domain = build(SPEC, compose_training(SPEC, ["model=tiny", "data=library", *library]))
    assert isinstance(domain, Audio)
    for number, item in enumerate(domain.held_out.items):
        asked = domain._absent(number)
        allowed = {"music": {"speech", "animal"}, "guitar": {"speech", "animal"}}
        heard = set(item.kinds)
        wanted = (
            set.intersection(*(allowed.get(kind, {"music", "guitar", "speech", "animal"}) for kind in heard)) - heard
        )
        kinds = {kind for kind in domain.mixes.sounds.kinds if asked in domain.mixes.sounds.captions(kind)}
        assert kinds <= (wanted or heard)


def test_early_estimates_alone_are_asked_how_they_sound() -> None:
    domain = audio("objective.until=0.1")
    batch = domain.dataset("train").__getitems__([0, 1, 2])
    flow, generator = domain.flow(new_network(domain, 0)), torch.Generator().manual_seed(0)
    assert isinstance(batch.x1, Tensor)
    draw = flow.draw(batch.x1, batch.cond, generator=generator)
    prediction = (batch.x1 + 0.1 * torch.randn(batch.x1.shape, generator=generator)).requires_grad_()
    terms = domain.extra_loss(flow, prediction, draw._replace(t=torch.tensor([0.02, 0.5, 0.1])), batch)
    torch.autograd.backward(terms["distortion"])
    assert prediction.grad is not None
    assert (prediction.grad.flatten(1).abs().amax(1) > 0).tolist() == [True, False, True]
    late = domain.extra_loss(flow, prediction, draw._replace(t=torch.full((3,), 0.5)), batch)
    assert float(late["distortion"].detach()) == 0


def test_one_mixture_is_learnt_by_heart() -> None:
    domain = audio("model.widths=[32,64]", "condition_drop=0")
    network = new_network(domain, 0)
    batch = domain.dataset("train").__getitems__([2])
    task = FlowTask(domain, network, FlowMatching(), domain.config.sampling)
    optimiser = Muon(network, 4e-3, (0.9, 0.99), 0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(90):
        loss, _ = task.loss(network, batch, generator)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    flow = domain.flow(network)
    x0 = flow.sample_source((1, 2, 2, 256, 24), batch.cond, generator, dtype=torch.float32)
    truth = batch.extra["waves"]
    for steps in (1, 4):
        drawn = carry(flow, x0, batch.cond, method="euler", steps=steps)
        gain = si_sdr_improvement(domain.waves(drawn.x, batch.cond)[:, 0], truth[:, 0], truth.sum(1))
        assert float(gain) > 10
