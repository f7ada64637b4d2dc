"""Mixtures: their parts sum up exactly, lie at the asked level, and number i is always the same."""

from __future__ import annotations

import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow_audio.generator import CAPTIONS, PARAPHRASES
from rectiflow_audio.mixing import Mixtures, mix
from rectiflow_audio.sounds import SyntheticSounds

SOUNDS = SyntheticSounds()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def power(wave: torch.Tensor) -> float:
    return float(wave.double().square().mean())


@pytest.mark.parametrize("snr", [-15.0, -5.0, 0.0, 7.5])
def test_parts_sum_to_the_mixture_at_the_asked_ratio(snr: float) -> None:
    found = mix(SOUNDS, ["dog", "rain", "bell"], 8000, (snr, snr), seeded())
    assert torch.equal(found.mixture, found.target + found.residual)
    ratio = 10 * torch.log10(torch.tensor(power(found.target) / power(found.residual)))
    assert float(ratio) == pytest.approx(snr, abs=1e-3)
    assert found.snr == snr
    assert float(found.mixture.abs().amax()) <= 1
    assert found.kind == "dog"
    assert found.caption in CAPTIONS["dog"]


def test_one_gain_limits_the_peak_of_all_parts() -> None:
    class Clicks:
        """A click in a second of next to nothing: its peak is far above 1 at any usual level."""

        kinds = ("a", "b")

        def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> torch.Tensor:
            wave = torch.zeros(samples)
            wave[100 if kind == "a" else 200] = 1.0
            return wave

        def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
            return (kind,)

    found = mix(Clicks(), ["a", "b"], 16_000, (3.0, 3.0), seeded())
    assert float(found.mixture.abs().amax()) == pytest.approx(0.99)
    assert 20 * torch.log10(found.target.amax() / found.residual.amax()) == pytest.approx(3.0, abs=1e-4)


def test_absent_target_is_silent_and_still_asked_for() -> None:
    found = mix(SOUNDS, ["dog", "rain"], 8000, (0, 0), seeded(), absent=True)
    assert not found.target.any()
    assert torch.equal(found.mixture, found.residual)
    assert found.kinds == ("rain",)
    assert found.caption in CAPTIONS["dog"]
    assert found.snr == float("-inf")


def test_mixture_number_depends_on_seed_split_and_number_alone() -> None:
    series = Mixtures(SOUNDS, 0.25, 8, seed=3)
    backwards = [Mixtures(SOUNDS, 0.25, 8, seed=3)[i] for i in (5, 2)]
    assert torch.equal(series[2].mixture, backwards[1].mixture)
    assert torch.equal(series[5].mixture, backwards[0].mixture)
    assert series[5].caption == backwards[0].caption
    for other in (Mixtures(SOUNDS, 0.25, 8, seed=4), Mixtures(SOUNDS, 0.25, 8, seed=3, split="validation")):
        assert not torch.equal(series[2].mixture, other[2].mixture)


def test_series_holds_what_was_asked_for() -> None:
    series = Mixtures(SOUNDS, 0.1, 100, voices=(2, 3), absent=0.3, held_out=True, snr_range=(-5, 5))
    found = list(series)
    assert len(found) == len(series) == 100
    assert {item.mixture.shape for item in found} == {(1600,)}
    silent = sum(not item.target.any() for item in found)
    assert 30 - 4 * 4.6 < silent < 30 + 4 * 4.6  # binomial, four standard errors
    assert {len(item.kinds) for item in found} == {2, 3}
    assert {item.kind for item in found} == set(SOUNDS.kinds)
    assert all(item.caption in PARAPHRASES[item.kind] for item in found)
    snrs = [item.snr for item in found if item.target.any()]
    assert -5 <= min(snrs) < -4
    assert 4 < max(snrs) <= 5


class Named:
    """A tone for every kind of the real sounds."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> torch.Tensor:
        return torch.sin((1 + self.kinds.index(kind)) * torch.arange(samples) / 20)

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        return (kind,)


def test_kinds_that_one_query_may_mean_are_kept_apart() -> None:
    """Music may be a guitar's, an instrument may be a guitar or a drum; a guitar is no drum."""
    sounds = Named("speech", "music", "drums", "guitar", "animal", "instrument", "everyday")
    pairs = {frozenset(item.kinds) for item in Mixtures(sounds, 0.01, 600, voices=(2, 2), overlap=False)}
    music = {frozenset(pair) for pair in (("music", "drums"), ("music", "guitar"), ("music", "instrument"))}
    apart = music | {frozenset(("instrument", "guitar")), frozenset(("instrument", "drums"))}
    assert not pairs & apart
    assert len(pairs) == 21 - 5
    assert len({frozenset(item.kinds) for item in Mixtures(sounds, 0.01, 600, voices=(2, 2))}) == 21
    three = list(Mixtures(sounds, 0.01, 200, voices=(3, 3), overlap=False, targets=("music",)))
    assert all(item.kind == "music" and len(item.kinds) == 3 for item in three)
    assert not any({"drums", "guitar", "instrument"} & set(item.kinds) for item in three)
    with pytest.raises(ConfigError, match="'music' can be mixed with none of"):
        Mixtures(Named("music", "guitar"), 0.01, 4, voices=(2, 2), overlap=False)


def test_endless_series_has_no_length() -> None:
    endless = Mixtures(SOUNDS, 0.05)
    assert endless[10**9].mixture.shape == (800,)
    with pytest.raises(ConfigError, match="endless"):
        len(endless)
    with pytest.raises(IndexError):
        Mixtures(SOUNDS, 0.05, 3)[3]


@pytest.mark.parametrize("kinds", [["dog"], ["dog", "dog"]])
def test_mixtures_of_too_few_kinds_are_refused(kinds: list[str]) -> None:
    with pytest.raises(ConfigError, match="two or more different kinds"):
        mix(SOUNDS, kinds, 100, (0, 0), seeded())


def test_wrong_series_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 to 11 voices"):
        Mixtures(SOUNDS, 1.0, voices=(2, 11))
    with pytest.raises(ConfigError, match="absent"):
        Mixtures(SOUNDS, 1.0, absent=1.5)
    with pytest.raises(ConfigError, match="a range that rises"):
        mix(SOUNDS, ["dog", "rain"], 100, (5, -5), seeded())
