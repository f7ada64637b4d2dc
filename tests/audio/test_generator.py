"""Synthetic sounds: every kind sounds, is new each time, repeats with its seed; the building blocks against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.signal import lfilter

from rectiflow.errors import ConfigError
from rectiflow_audio import generator as kinds_of_sound
from rectiflow_audio import synthesis as syn
from rectiflow_audio.generator import CAPTIONS, KINDS, PARAPHRASES, PEAK, synthesise
from rectiflow_audio.sounds import PooledSounds, SyntheticSounds, audible


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_there_are_enough_kinds_with_captions_and_held_out_paraphrases() -> None:
    assert len(KINDS) >= 8
    assert set(CAPTIONS) == set(PARAPHRASES) == set(KINDS)
    for kind in KINDS:
        assert len(CAPTIONS[kind]) >= 3
        assert len(PARAPHRASES[kind]) >= 3
        assert not set(CAPTIONS[kind]) & set(PARAPHRASES[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_repeats_with_its_seed_and_differs_without(kind: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (synthesise(kind, 16_000, seeded(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.3
    assert float(first.abs().amax()) == pytest.approx(PEAK)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 2, 255, 1009])
def test_any_length_is_finite(kind: str, samples: int) -> None:
    wave = synthesise(kind, samples, seeded())
    assert wave.shape == (samples,)
    assert wave.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_of_a_kind_is_never_silent(kind: str) -> None:
    generator = seeded(3)
    assert all(audible(synthesise(kind, 16_000, generator)) for _ in range(5))


def test_unknown_kind_and_empty_sound_are_refused() -> None:
    with pytest.raises(ConfigError, match="no sound of kind 'cat'"):
        synthesise("cat", 100, seeded())
    with pytest.raises(ConfigError, match="0 samples"):
        synthesise("dog", 0, seeded())


def test_harmonics_are_the_sum_of_sines() -> None:
    strengths = torch.tensor([1.0, -0.5, 0.25])
    wave = syn.harmonics(torch.full((syn.frames_for(1600),), 430.0), strengths, 1600)
    time = torch.arange(1, 1601, dtype=torch.float64) / 16_000
    expected = sum(a * torch.sin(2 * math.pi * 430 * k * time) for k, a in enumerate(strengths.tolist(), start=1))
    torch.testing.assert_close(wave.double(), expected, atol=2e-3, rtol=0)


def test_partials_near_the_highest_frequency_are_left_out() -> None:
    wave = syn.harmonics(torch.full((syn.frames_for(1600),), 3000.0), torch.tensor([0.0, 0.0, 1.0]), 1600)
    assert float(wave.abs().amax()) < 1e-6


def test_pulses_are_equal_cosines() -> None:
    wave = syn.pulses(torch.full((syn.frames_for(1600),), 900.0), 1600)
    phase = 2 * math.pi * 900 * torch.arange(1, 1601, dtype=torch.float64) / 16_000
    expected = sum(torch.cos(k * phase) for k in range(1, 9)) * (2 / 8) ** 0.5
    torch.testing.assert_close(wave.double(), expected, atol=2e-3, rtol=0)
    assert float(wave.square().mean()) == pytest.approx(1.0, rel=0.02)


def test_plucked_string_solves_the_recursion_of_karplus_and_strong() -> None:
    wave = kinds_of_sound._plucked(400.0, 0.3, 0.5, seeded(5)).double()
    period = 40  # samples; the average delays by half of one, so 39.5 are the line
    loss = 0.001 ** (1 / (400 * 0.3))
    burst = torch.randn(period, generator=seeded(5), dtype=torch.float32).double()
    # A delay of 39.5 samples has no finite recursion; brightness 0 needs none and is compared sample by sample.
    plain = kinds_of_sound._plucked(400.0, 0.3, 0.0, seeded(5)).double()
    excitation = torch.zeros(len(plain), dtype=torch.float64)
    excitation[:period] = burst
    feedback = [1.0] + [0.0] * (period - 1) + [-loss]
    expected = torch.from_numpy(lfilter([1.0], feedback, excitation.numpy()))
    expected /= expected.abs().amax()
    torch.testing.assert_close(plain[:4000], expected[:4000], atol=2e-3, rtol=0)
    # The average takes the high frequencies first.
    late = torch.fft.rfft(wave[2000:4000]).abs()
    early = torch.fft.rfft(wave[:2000]).abs()
    assert late[500:].sum() / early[500:].sum() < 0.5 * late[:200].sum() / early[:200].sum()


def test_changing_filter_with_a_flat_gain_changes_nothing() -> None:
    wave = syn.white(2000, seeded())
    torch.testing.assert_close(syn.shaped(wave, torch.full((129, 5), 2.0)), 2 * wave, atol=1e-4, rtol=0)
    torch.testing.assert_close(syn.equalised(wave, torch.full((9,), 0.5)), wave / 2, atol=1e-5, rtol=0)


def test_splits_of_one_seed_are_different_sounds() -> None:
    sounds = SyntheticSounds()
    draws = [sounds.draw("dog", 4000, split, seeded()) for split in ("train", "validation", "test", "train")]
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    with pytest.raises(ConfigError, match="no split 'dev'"):
        sounds.draw("dog", 4000, "dev", seeded())


def test_pool_is_rendered_once_and_cut_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    pool = PooledSounds(SyntheticSounds(["dog", "rain"]), seconds=2.0, clip=0.5)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    written = [file.stat().st_mtime_ns for file in files]
    again = PooledSounds(SyntheticSounds(["dog", "rain"]), seconds=2.0, clip=0.5)
    assert [file.stat().st_mtime_ns for file in files] == written
    assert torch.equal(pool.draw("rain", 3000, "train", seeded(1)), again.draw("rain", 3000, "train", seeded(1)))
    assert not torch.equal(pool.draw("rain", 3000, "train", seeded(1)), pool.draw("rain", 3000, "train", seeded(2)))
    longer = pool.draw("rain", 9000, "train", seeded(1))
    assert longer.shape == (9000,)
    files[0].write_bytes(b"damaged")
    assert len(PooledSounds(SyntheticSounds(["dog", "rain"]), seconds=2.0, clip=0.5).pools["dog"]) == 4


def test_wrong_pools_and_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="'cat'"):
        SyntheticSounds(["dog", "cat"])
    with pytest.raises(ConfigError, match=r"pool of 1.0 s in clips of 2.0 s"):
        PooledSounds(SyntheticSounds(["dog"]), seconds=1.0)
