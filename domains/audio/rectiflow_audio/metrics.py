"""How good a separation is: distortion ratios against the true parts, and summaries of many of them.

Waveforms are (..., T) of any float type and are worked on in float64. A ratio against a silent reference is not defined:
it is NaN, which the summaries count and leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rectiflow.errors import DataError

LIMIT = 100.0  # dB; a perfect estimate has this much, not infinity
_SILENT = 1e-14  # power (-140 dBFS) below which a reference is silent


def si_sdr(estimate: Tensor, reference: Tensor, zero_mean: bool = False) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (...,) in dB, within [-100, 100]; NaN where the reference is silent.

    10 log10(|a s|^2 / |e - a s|^2) with a = <e, s> / |s|^2: arXiv 1811.02508, equation 3. zero_mean: remove the means
    first, which gives SI-SNR.

    Raises:
        DataError: shapes that differ, or values that are not finite.
    """
    estimate, reference = _checked(estimate, reference)
    if zero_mean:
        estimate, reference = (wave - wave.mean(-1, keepdim=True) for wave in (estimate, reference))
    scale = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True)
    return _ratio(scale * reference, estimate - scale * reference, reference)


def si_sdr_improvement(estimate: Tensor, reference: Tensor, mixture: Tensor, zero_mean: bool = False) -> Tensor:
    """SI-SDR (...,) in dB of the estimate above that of the mixture itself; arguments and `Raises` as `si_sdr`."""
    return si_sdr(estimate, reference, zero_mean) - si_sdr(mixture, reference, zero_mean)


def snr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-noise ratio (...,) in dB: 10 log10(|s|^2 / |s - e|^2), the "SDR" of the music demixing challenges.

    Within [-100, 100]; NaN where the reference is silent. Source: arXiv 2108.13559, equation 2.

    Raises:
        DataError: shapes that differ, or values that are not finite.
    """
    estimate, reference = _checked(estimate, reference)
    return _ratio(reference, reference - estimate, reference)


class BSSEval(NamedTuple):
    """Ratios in dB (K,) of distortions of all sorts, of the other sources, and of everything else."""

    sdr: Tensor
    sir: Tensor
    sar: Tensor


def bss_eval(estimates: Tensor, references: Tensor, filter_length: int = 512) -> BSSEval:
    """SDR, SIR and SAR of K estimates (K, T) against K references (K, T), estimate k meant for reference k.

    An estimate may be filtered by up to `filter_length` taps without counting as distorted: Vincent et al. 2006
    (doi 10.1109/TSA.2005.858005), sections III and IV. NaN for a silent reference, and for all K as far as sources
    cannot be told apart then. With one tap SDR is SI-SDR.

    Raises:
        DataError: shapes that differ or are not (K, T), a length shorter than the filter, or values that are not finite.
    """
    estimates, references = _checked(estimates, references)
    if estimates.ndim != 2 or estimates.shape[1] < filter_length or filter_length < 1:
        raise DataError(
            f"estimates of shape {tuple(estimates.shape)} were given for a filter of {filter_length} taps; "
            "they must be (K, T) with T no shorter than the filter: check the order of the axes"
        )
    silent = references.square().mean(-1) < _SILENT
    count = len(references)
    gram, cross = _correlations(estimates, references, filter_length)
    total = estimates.square().sum(-1)
    on_own, on_all = torch.full((count,), torch.nan).to(total), torch.full((count,), torch.nan).to(total)
    for k in range(count):
        if not silent[k]:
            on_own[k] = _projected_energy(gram[k, k], cross[k, k])
    if not silent.any():
        joint = gram.permute(0, 2, 1, 3).reshape(count * filter_length, count * filter_length)
        for k in range(count):
            on_all[k] = _projected_energy(joint, cross[:, k].reshape(-1))
    return BSSEval(
        _decibels(on_own, total - on_own),
        _decibels(on_own, on_all - on_own),
        _decibels(on_all, total - on_all),
    )


def _correlations(estimates: Tensor, references: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Inner products of delayed references, (K, K, taps, taps), and of delayed references with estimates, (K, K, taps)."""
    length = 1 << (estimates.shape[1] + taps).bit_length()
    spectra = torch.fft.rfft(references, length)
    # lags[i, j, d] = sum_t s_i[t] s_j[t + d]; negative lags sit at the end.
    lags = torch.fft.irfft(spectra[:, None].conj() * spectra[None], length)
    delay = torch.arange(taps)
    gram = lags[:, :, (delay[:, None] - delay[None, :]) % length]
    cross = torch.fft.irfft(spectra[:, None].conj() * torch.fft.rfft(estimates, length)[None], length)[..., :taps]
    return gram, cross


def _projected_energy(gram: Tensor, cross: Tensor) -> Tensor:
    """|P e|^2 = b^T G^-1 b for the projection P on what the delayed references span."""
    # A band-limited reference has delayed copies that are almost dependent.
    loading = 1e-10 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    energy: Tensor = cross @ torch.linalg.solve(gram + loading, cross)
    return energy


def best_order(estimates: Tensor, references: Tensor) -> Tensor:
    """The order (K,) of K estimates (K, T) whose mean SI-SDR against K references (K, T) is highest.

    estimates[order[k]] is meant for reference k, as in permutation-invariant training (arXiv 1607.00325). Silent
    references take what is left.

    Raises:
        DataError: shapes that differ or are not (K, T), or values that are not finite.
    """
    estimates, references = _checked(estimates, references)
    if estimates.ndim != 2:
        raise DataError(
            f"estimates have shape {tuple(estimates.shape)}; they must be (K, T): pass one mixture at a time"
        )
    table = si_sdr(estimates[None].expand(len(references), -1, -1), references[:, None].expand(-1, len(estimates), -1))
    _, order = linear_sum_assignment(table.nan_to_num(0.0).numpy(), maximize=True)
    return torch.as_tensor(order)


def false_extraction_level(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Level (...,) in dB of what was extracted, relative to the mixture: how much a query takes that names nothing in it.

    Within [-100, 100]; NaN where the mixture is silent.

    Raises:
        DataError: shapes that differ, or values that are not finite.
    """
    estimate, mixture = _checked(estimate, mixture)
    return _ratio(estimate, mixture, mixture)


def log_spectral_distance(estimate: Tensor, reference: Tensor, size: int = 512, hop: int = 128) -> Tensor:
    """Distance (...,) in dB between power spectra on a logarithmic scale: what blurred or missing detail does to it.

    Mean over frames of the root mean square over frequencies of 10 log10(P_s / P_e), both floored 60 dB below the
    loudest bin of the reference (Gray and Markel 1976, doi 10.1109/TASSP.1976.1162849). NaN where the reference is silent.

    Raises:
        DataError: shapes that differ, or values that are not finite.
    """
    estimate, reference = _checked(estimate, reference)
    powers = []
    for wave in (estimate, reference):
        window = torch.hann_window(size, dtype=wave.dtype)
        flat = torch.stft(
            wave.reshape(-1, wave.shape[-1]), size, hop, window=window, pad_mode="constant", return_complex=True
        )
        powers.append(flat.abs().square())
    floor = 1e-6 * powers[1].amax(dim=(1, 2), keepdim=True)
    gap = 10 * (powers[0].clamp_min(floor).log10() - powers[1].clamp_min(floor).log10())
    distance = gap.square().mean(dim=1).sqrt().mean(dim=1).reshape(estimate.shape[:-1])
    return torch.where(reference.square().mean(-1) > _SILENT, distance, torch.nan)


class Summary(NamedTuple):
    """Many ratios at a glance, in dB: `improved` is the share above 0, `skipped` how many of them were not defined."""

    mean: float
    median: float
    improved: float
    measured: int
    skipped: int


def summary(values: Tensor) -> Summary:
    """Summary of ratios (N,) in dB; NaN counts as skipped, and without any other value the figures are NaN."""
    kept = values[~values.isnan()].double()
    skipped = len(values) - len(kept)
    if not len(kept):
        return Summary(float("nan"), float("nan"), float("nan"), 0, skipped)
    median = float(kept.quantile(0.5))
    return Summary(float(kept.mean()), median, float((kept > 0).double().mean()), len(kept), skipped)


def by_kind(values: Tensor, kinds: Sequence[str]) -> dict[str, Summary]:
    """Summary of the ratios (N,) of each kind, in alphabetical order."""
    return {kind: summary(values[torch.tensor([other == kind for other in kinds])]) for kind in sorted(set(kinds))}


def by_snr(values: Tensor, snrs: Sequence[float], edges: Sequence[float] = (-10, -5, 0, 5, 10)) -> dict[str, Summary]:
    """Summary of the ratios (N,) in each bin of the mixtures' SNR in dB; "-5..0" is -5 <= SNR < 0. Empty bins are left out."""
    levels = torch.tensor(snrs, dtype=torch.float64)
    bounds = [float("-inf"), *map(float, edges), float("inf")]
    found = {}
    for low, high in pairwise(bounds):
        inside = (levels >= low) & (levels < high) & levels.isfinite()
        if inside.any():
            found[f"{low:g}..{high:g}"] = summary(values[inside])
    return found


def _ratio(signal: Tensor, noise: Tensor, reference: Tensor) -> Tensor:
    decibels = _decibels(signal.square().sum(-1), noise.square().sum(-1))
    return torch.where(reference.square().mean(-1) > _SILENT, decibels, torch.nan)


def _decibels(signal: Tensor, noise: Tensor) -> Tensor:
    smallest = torch.finfo(torch.float64).tiny
    decibels = (10 * (signal.clamp_min(smallest) / noise.clamp_min(smallest)).log10()).clamp(-LIMIT, LIMIT)
    return torch.where(signal <= smallest, -LIMIT, decibels)  # nothing at all is the worst estimate, not 0 dB


def _checked(estimate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if estimate.shape != reference.shape or not estimate.numel():
        raise DataError(
            f"waveforms have shapes {tuple(estimate.shape)} and {tuple(reference.shape)}; "
            "they must be equal and not empty: cut or pad them to one length first"
        )
    if not (estimate.isfinite().all() and reference.isfinite().all()):
        raise DataError("a waveform holds NaN or infinite values; all must be finite: look at the estimate first")
    return estimate.double(), reference.double()
