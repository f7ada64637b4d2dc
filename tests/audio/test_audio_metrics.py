"""Distortion ratios against torchmetrics and fast_bss_eval, toy values, and what happens at the edges."""

from __future__ import annotations

import fast_bss_eval
import numpy as np
import pytest
import torch
import torchaudio
import torchmetrics.functional.audio as peers

from rectiflow.errors import DataError
from rectiflow.metrics import frechet_distance
from rectiflow_audio import metrics
from rectiflow_audio.metrics import (
    best_order,
    bss_eval,
    by_kind,
    by_snr,
    false_extraction_level,
    log_spectral_distance,
    si_sdr,
    si_sdr_improvement,
    snr,
    summary,
)
from rectiflow_audio.mixing import Mixtures
from rectiflow_audio.oracles import ideal_ratio_mask, ideal_ratio_masks
from rectiflow_audio.sounds import SyntheticSounds

TOY = torch.tensor([2.5, 0.0, 2.0, 8.0]), torch.tensor([3.0, -0.5, 2.0, 7.0])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_si_sdr_of_the_toy_example() -> None:
    assert float(si_sdr(*TOY)) == pytest.approx(18.4030, abs=1e-3)
    assert float(si_sdr(*TOY, zero_mean=True)) == pytest.approx(15.0918, abs=1e-3)


@pytest.mark.parametrize("zero_mean", [False, True])
def test_ratios_equal_torchmetrics(zero_mean: bool) -> None:
    reference = noise(100, 800) + 0.3
    estimate = reference + noise(100, 800, seed=1) * torch.logspace(-2, 1, 100)[:, None]
    peer = peers.scale_invariant_signal_distortion_ratio(estimate, reference, zero_mean=zero_mean)
    torch.testing.assert_close(si_sdr(estimate, reference, zero_mean), peer, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        snr(estimate, reference), peers.signal_noise_ratio(estimate, reference), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("factor", [1e-3, 0.1, -2.0, 1e3])
def test_si_sdr_does_not_depend_on_scale(factor: float) -> None:
    estimate, reference = noise(4000), noise(4000) + noise(4000, seed=1)
    expected = float(si_sdr(estimate, reference))
    assert float(si_sdr(factor * estimate, reference)) == pytest.approx(expected, abs=1e-4)
    assert float(si_sdr(estimate, factor * reference)) == pytest.approx(expected, abs=1e-4)
    assert float(snr(2 * estimate, reference)) != pytest.approx(float(snr(estimate, reference)), abs=0.1)


def test_improvement_of_the_mixture_itself_is_zero() -> None:
    mixture, target = noise(3, 4000), noise(3, 4000, seed=1)
    assert not si_sdr_improvement(mixture, target, mixture).any()
    better = si_sdr_improvement(target + 0.1 * mixture, target, target + mixture)
    torch.testing.assert_close(better, torch.full((3,), 20.0, dtype=torch.float64), atol=0.4, rtol=0)


def test_silence_and_perfection_at_the_edges() -> None:
    wave, silence = noise(100), torch.zeros(100)
    assert float(si_sdr(wave, wave)) == metrics.LIMIT
    assert float(si_sdr(silence.double(), wave)) == -metrics.LIMIT
    assert si_sdr(wave, silence.double()).isnan()
    assert snr(wave, silence.double()).isnan()
    assert float(snr(silence.double(), wave)) == pytest.approx(0)
    both = si_sdr(torch.stack([wave, wave]), torch.stack([wave, silence.double()]))
    assert both.isnan().tolist() == [False, True]


def test_wrong_waveforms_are_refused() -> None:
    with pytest.raises(DataError, match="shapes"):
        si_sdr(noise(10), noise(11))
    with pytest.raises(DataError, match="NaN"):
        si_sdr(noise(2) / 0, noise(2))
    with pytest.raises(DataError, match=r"\(K, T\)"):
        bss_eval(noise(2, 100), noise(2, 100))
    with pytest.raises(DataError, match="one mixture at a time"):
        best_order(noise(2, 2, 100), noise(2, 2, 100))


def filtered(wave: torch.Tensor, taps: list[float]) -> torch.Tensor:
    return torch.from_numpy(np.convolve(wave.numpy(), taps)[: len(wave)])


@pytest.mark.parametrize("taps", [1, 16, 512])
def test_bss_eval_equals_fast_bss_eval(taps: int) -> None:
    references = torch.stack([filtered(noise(6000, seed=k), [1, 0.5, -0.3]) for k in range(2)])
    estimates = torch.stack([filtered(references[0], [0.3, 1, 0.2]), references[1]]) + 0.1 * references.flip(0)
    estimates = estimates + 0.05 * noise(2, 6000, seed=9)
    sdr, sir, sar = (
        torch.as_tensor(v) for v in fast_bss_eval.bss_eval_sources(references, estimates, filter_length=taps)[:3]
    )
    ours = bss_eval(estimates, references, taps)
    torch.testing.assert_close(ours.sdr, sdr, atol=1e-3, rtol=0)
    torch.testing.assert_close(ours.sir, sir, atol=1e-3, rtol=0)
    torch.testing.assert_close(ours.sar, sar, atol=1e-3, rtol=0)
    if taps == 1:
        torch.testing.assert_close(ours.sdr, si_sdr(estimates, references), atol=1e-4, rtol=0)


def test_bss_eval_forgives_filters_and_leaves_silence_out() -> None:
    reference = noise(1, 6000)
    moved = filtered(reference[0], [0, 0, 0, 0.7])[None]
    assert float(bss_eval(moved, reference, 16).sdr) > 25
    assert float(si_sdr(moved, reference)) < -10
    found = bss_eval(noise(2, 3000), torch.stack([noise(3000), torch.zeros(3000).double()]), 16)
    assert found.sdr.isnan().tolist() == [False, True]
    assert found.sir.isnan().all()


def test_best_order_undoes_a_permutation() -> None:
    references = noise(4, 1000)
    given = torch.tensor([2, 0, 3, 1])
    order = best_order(references[given] + 0.5 * noise(4, 1000, seed=1), references)
    torch.testing.assert_close(references[given][order], references)


def test_false_extraction_is_a_level_below_the_mixture() -> None:
    mixture = noise(2, 1000)
    level = false_extraction_level(torch.stack([0.1 * mixture[0], 0 * mixture[1]]), mixture)
    assert level.tolist() == pytest.approx([-20.0, -100.0])


def test_log_spectral_distance_of_a_gain_is_the_gain() -> None:
    wave = noise(8000)
    assert float(log_spectral_distance(wave, wave)) == 0
    assert float(log_spectral_distance(0.5 * wave, wave)) == pytest.approx(6.0206, abs=0.02)
    low = torch.from_numpy(np.convolve(wave.numpy(), np.ones(8) / 8, "same"))
    assert 3 < float(log_spectral_distance(low, wave)) < 30


def test_summaries_count_what_is_not_defined() -> None:
    values = torch.tensor([1.0, 3.0, -1.0, 5.0, float("nan")])
    found = summary(values)
    assert found == metrics.Summary(2.0, 2.0, 0.75, 4, 1)
    kinds = by_kind(values, ["b", "a", "b", "a", "a"])
    assert list(kinds) == ["a", "b"]
    assert kinds["a"] == metrics.Summary(4.0, 4.0, 1.0, 2, 1)
    assert kinds["b"].mean == 0
    bins = by_snr(values, [-5.0, -0.1, 0.0, 12.0, float("-inf")])
    assert {name: found.measured for name, found in bins.items()} == {"-5..0": 2, "0..5": 1, "10..inf": 1}
    assert summary(torch.tensor([float("nan")])).measured == 0


def test_frechet_distance_equals_torchaudio_and_vanishes_on_itself() -> None:
    x, y = noise(400, 6), 2 * noise(300, 6, seed=1) + 1
    moments = [(s.mean(0), s.T.cov()) for s in (x, y)]
    peer = torchaudio.functional.frechet_distance(*moments[0], *moments[1])
    assert frechet_distance(x, y) == pytest.approx(float(peer), abs=1e-6)
    assert abs(frechet_distance(x, x)) < 1e-6


def test_ideal_mask_bounds_and_mixture_floors_the_generator_s_mixtures() -> None:
    items = list(Mixtures(SyntheticSounds(), 1.016, 24, split="validation"))
    target, residual = (torch.stack([getattr(item, name) for item in items]) for name in ("target", "residual"))
    mixture = torch.stack([item.mixture for item in items])
    estimates = ideal_ratio_mask(target, residual)
    torch.testing.assert_close(estimates.sum(dim=1), mixture, atol=1e-6, rtol=0)
    bound = summary(si_sdr_improvement(estimates[:, 0], target, mixture))
    assert bound.mean > 12
    assert bound.improved == 1
    assert summary(si_sdr_improvement(estimates[:, 1], residual, mixture)).mean > 12
    several = torch.stack([target, residual / 2, residual / 2], dim=1)
    torch.testing.assert_close(ideal_ratio_masks(several)[:, 0], estimates[:, 0], atol=1e-6, rtol=0)
    assert not si_sdr_improvement(mixture, target, mixture).any()
