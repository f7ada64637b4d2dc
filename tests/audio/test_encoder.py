"""The sound-text encoder: it learns what sounds are, and its scores rank them; the losses against their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError, DataError
from rectiflow.training.loop import Fitted, fit
from rectiflow.training.options import TrainingOptions
from rectiflow.verbs.train import report_end
from rectiflow_audio.encoder import (
    FEATURES,
    SoundTextEncoder,
    best_of,
    embed,
    exemplar_query,
    frechet_audio_distance,
    likeness,
    likeness_of_sounds,
    load_encoder,
    presence,
)
from rectiflow_audio.encoder_training import LabelledSounds, encoder_loss, encoder_stage
from rectiflow_audio.sounds import PooledSounds, SyntheticSounds
from rectiflow_audio.text import HashedEncoder

KINDS = ("flute", "rain", "dog")
TEXT = HashedEncoder()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def query(kind: str) -> torch.Tensor:
    return TEXT.encode([f"a {kind}"]).pooled[0]


def held_out(kind: str, count: int, samples: int = 16_000) -> torch.Tensor:
    generator = seeded(9)
    return torch.stack([SyntheticSounds().draw(kind, samples, "test", generator) for _ in range(count)])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SoundTextEncoder:
    """Trained for a few seconds on three kinds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        sounds = PooledSounds(SyntheticSounds(KINDS), seconds=8.0, clip=0.5)
        task, data = encoder_stage(sounds, TEXT, 0.5, 0)
        options = TrainingOptions(steps=40, batch=12, learning_rate=3e-3, warmup=5, ema=0.9)
        fit(task, data, options)
    return task.network.eval().requires_grad_(False)  # type: ignore[return-value]


def test_vectors_have_unit_length_and_do_not_depend_on_loudness() -> None:
    encoder = SoundTextEncoder(16, seeded())
    waves = held_out("dog", 3, 8000)
    vectors = encoder(waves)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encoder(0.01 * waves), vectors, atol=1e-4, rtol=0)
    assert encoder.features(waves).shape == (3, FEATURES)
    assert encoder(torch.zeros(1, 1)).isfinite().all()
    with pytest.raises(DataError, match=r"\(B, T\)"):
        encoder(torch.zeros(2, 1, 100))


def test_building_reads_no_global_generator() -> None:
    state = torch.get_rng_state()
    weights = SoundTextEncoder(8, seeded(1)).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    again = SoundTextEncoder(8, seeded(1)).state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_windows_of_a_long_sound() -> None:
    encoder = SoundTextEncoder(8, seeded())
    waves = held_out("rain", 2, 40_000)
    vectors = embed(encoder, waves)
    assert vectors.shape == (2, 4, 8)
    torch.testing.assert_close(vectors[1, 2], encoder(waves[1:, 16_000:32_000])[0])
    assert embed(encoder, waves[:, :100]).shape == (2, 1, 8)


def test_loss_is_the_log_likelihood_and_the_distance_of_sounds_alone() -> None:
    encoder = SoundTextEncoder(4, seeded())
    x1 = held_out("dog", 3, 4000)
    texts = F.normalize(torch.randn(2, 4, generator=seeded()), dim=1)
    captions = F.normalize(torch.randn(3, 4, generator=seeded(1)), dim=1)
    present = torch.tensor([[True, False], [True, True], [False, True]])
    alone = torch.tensor([True, False, True])
    batch = Batch(x1=x1, cond={"text": captions}, extra={"present": present, "alone": alone, "texts": texts})
    total, terms = encoder_loss(encoder, batch)
    with torch.no_grad():
        vectors = encoder(x1)
        odds = (vectors @ texts.T) * 10.0 - 5.0  # the first values of scale and offset
        chances = 1 / (1 + torch.exp(-odds))
        expected = -torch.where(present, chances, 1 - chances).log().mean()
        away = 1 - (vectors * captions).sum(dim=1)
    torch.testing.assert_close(terms["likelihood"], expected)
    torch.testing.assert_close(terms["alignment"], (away[0] + away[2]) / 2)
    torch.testing.assert_close(total.detach(), expected + (away[0] + away[2]) / 2)


def test_labelled_sounds_say_what_they_hold() -> None:
    data = LabelledSounds(SyntheticSounds(KINDS), TEXT, 0.02, 0)
    batch = data.__getitems__(list(range(200)))
    assert torch.equal(batch.x1[7], data.__getitems__([7]).x1[0])  # type: ignore[index]
    assert 100 - 4 * 7.1 < int(batch.extra["alone"].sum()) < 100 + 4 * 7.1  # four standard errors of a fair coin
    counts = batch.extra["present"].sum(dim=1)
    assert torch.equal(counts == 1, batch.extra["alone"])
    assert int(counts.max()) == 2
    assert batch.extra["texts"].shape == (3, TEXT.dim)


def test_trained_encoder_knows_kinds_and_what_is_present(encoder: SoundTextEncoder) -> None:
    queries = torch.stack([query(kind) for kind in KINDS])
    right = []
    for place, kind in enumerate(KINDS):
        found = presence(encoder, held_out(kind, 12), queries)
        assert found.shape == (12, 3)
        right.append((found.argmax(dim=1) == place).double().mean())
        own, other = query(kind).expand(12, -1), query(KINDS[place - 1]).expand(12, -1)
        assert likeness(encoder, held_out(kind, 12), own).mean() > likeness(encoder, held_out(kind, 12), other).mean()
    assert float(torch.stack(right).mean()) > 0.8
    assert not presence(encoder, torch.zeros(1, 16_000), queries).any()


def test_exemplars_stand_where_their_caption_does(encoder: SoundTextEncoder) -> None:
    found = exemplar_query(encoder, held_out("flute", 2))
    torch.testing.assert_close(found.norm(), torch.ones(()))
    assert found @ query("flute") > found @ query("rain") + 0.2
    with pytest.raises(DataError, match="silent"):
        exemplar_query(encoder, torch.zeros(1, 16_000))


def test_best_candidate_has_the_query_in_the_target_and_not_in_the_rest(encoder: SoundTextEncoder) -> None:
    flute, rain = held_out("flute", 1)[0], held_out("rain", 1)[0]
    both = flute + rain
    candidates = torch.stack([torch.stack(pair) for pair in ((both, both), (rain, flute), (flute, rain))])
    assert best_of(encoder, candidates, query("flute")) == 2
    assert best_of(encoder, candidates, query("rain")) == 1


def test_frechet_distance_sees_another_kind(encoder: SoundTextEncoder) -> None:
    flutes, rain = held_out("flute", 40, 8000), held_out("rain", 20, 8000)
    same = frechet_audio_distance(encoder, flutes[:20], flutes[20:])
    assert frechet_audio_distance(encoder, flutes[:20], rain) > 3 * same
    assert abs(frechet_audio_distance(encoder, rain, rain)) < 1e-6
    torch.testing.assert_close(likeness_of_sounds(encoder, rain, 0.1 * rain), torch.ones(20), atol=1e-4, rtol=0)


def test_what_is_no_run_of_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_encoder(tmp_path)
    (tmp_path / "config.yaml").write_text("domain: audio\nstage: flow\n")
    with pytest.raises(ConfigError, match="stage=flow"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("samples", [True, False])
def test_only_a_run_of_the_flow_is_said_to_give_samples(samples: bool, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = Fitted(torch.nn.Linear(2, 2), {}, 3, 0.1, 1.0, 0, {}, 0)
    report_end(fitted, Path("runs/audio/encoder"), "audio", samples=samples)
    printed = capsys.readouterr().out
    assert "run: runs/audio/encoder" in printed
    assert ("rectiflow sample" in printed) is samples
